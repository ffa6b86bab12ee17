"""Reading Hugging Face causal language models and their tokenizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from mmalign.errors import UserError
from mmalign.modalities.tokens.loading import adapter_base, check_kind, first_line, load_pretrained

__all__ = ["load_model", "load_tokenizer"]


def load_tokenizer(source: str) -> Any:
    """Load the tokenizer of ``source`` (of its base, for a LoRA folder without one).

    Raises:
        UserError: when there is none, or it has no end token.
    """
    base = adapter_base(source)
    if base and not (Path(source) / "tokenizer_config.json").is_file():
        source = base
    _check_kind(base or source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError, TypeError) as error:
        raise UserError(f'no tokenizer could be loaded from "{source}" ({first_line(error)})') from error
    if tokenizer.eos_token_id is None:
        raise UserError(
            f'"{source}": the tokenizer has no end token; set eos_token in its tokenizer_config.json'
        )
    return tokenizer


def load_model(source: str, *, device: str, dtype: str, merge: bool = True) -> nn.Module:
    """Load a causal language model; an adapter folder is merged into its base, or kept with ``merge=False``.

    Raises:
        UserError: when the source is missing, not a causal language model or not in safetensors.
    """
    return load_pretrained(
        source,
        AutoModelForCausalLM,
        _check_kind,
        what="causal language model",
        device=device,
        dtype=dtype,
        merge=merge,
    )


def _check_kind(source: str) -> None:
    check_kind(source, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, "a causal language model")
