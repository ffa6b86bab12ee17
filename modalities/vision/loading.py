"""Reading and writing Hugging Face image-text-to-text models: safetensors only, no remote code."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForImageTextToText, AutoProcessor

from mmalign.errors import UserError, nearest
from mmalign.modalities.vision.forward import body, head_logits, unwrap

__all__ = ["load_model", "load_processor", "placeholder_ids", "save_model", "stop_ids", "suppress_placeholders"]

_DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "auto": "auto",
}
_ADAPTER = "adapter_config.json"
_PLACEHOLDERS = ("image_token_id", "image_token_index", "video_token_id", "audio_token_id")


def load_processor(source: str) -> Any:
    """Load the processor of ``source`` and check that it takes images and has a chat template.

    Raises:
        UserError: when the folder is missing, holds no image processor or no chat template.
    """
    _check_source(source)
    try:
        processor = AutoProcessor.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError, TypeError) as error:
        raise UserError(f'no processor could be loaded from "{source}" ({_first_line(error)})') from error
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        raise UserError(
            f'"{source}" is not an image-text model: its processor is a {type(processor).__name__} '
            "without an image processor"
        )
    if not processor.chat_template and getattr(processor.tokenizer, "chat_template", None):
        processor.chat_template = processor.tokenizer.chat_template
    if not processor.chat_template:
        raise UserError(
            f'"{source}" has no chat template; put a chat_template.jinja beside its processor, '
            "or load an instruction-tuned checkpoint"
        )
    return processor


def load_model(source: str, *, device: str, dtype: str) -> nn.Module:
    """Load an image-text-to-text model, with its LoRA adapter where ``source`` is an adapter folder.

    Raises:
        UserError: when the source is missing, not an image-text model or not in safetensors.
    """
    if dtype not in _DTYPES:
        raise UserError(f'unknown dtype "{dtype}"{nearest(dtype, _DTYPES)}; one of {", ".join(_DTYPES)}')
    _check_source(source)
    if (Path(source) / _ADAPTER).is_file():
        return _load_adapter(source, device=device, dtype=dtype)
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            source, dtype=_DTYPES[dtype], use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise UserError(f'no image-text model could be loaded from "{source}" ({_first_line(error)})') from error
    if model.config.is_encoder_decoder:
        raise UserError(f'"{source}" is an encoder-decoder model; only decoder-only models are supported')
    model = model.to(device).eval()
    _check_head(model, source)
    return model


def save_model(model: nn.Module, processor: Any, folder: Path, *, merge: bool = False) -> None:
    """Write weights (safetensors) and processor; a ``PeftModel`` writes its adapter unless ``merge``."""
    folder.mkdir(parents=True, exist_ok=True)
    while hasattr(model, "module") and isinstance(model.module, nn.Module):
        model = model.module
    if merge and hasattr(model, "merge_and_unload"):
        model = copy.deepcopy(model).merge_and_unload()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def stop_ids(model: nn.Module, processor: Any) -> tuple[int, ...]:
    """Token ids that end an answer: the generation config's, else the tokenizer's end token."""
    config = getattr(unwrap(model), "generation_config", None)
    ids = getattr(config, "eos_token_id", None)
    ids = processor.tokenizer.eos_token_id if ids is None else ids
    if ids is None:
        raise UserError("the model has no end token: set eos_token_id in its generation_config.json")
    return tuple(ids) if isinstance(ids, (list, tuple)) else (int(ids),)


def placeholder_ids(model: nn.Module) -> tuple[int, ...]:
    """Ids of media placeholder tokens; an answer can never contain one."""
    config = unwrap(model).config
    size = config.get_text_config().vocab_size
    ids = {getattr(config, name, None) for name in _PLACEHOLDERS}
    return tuple(sorted(token for token in ids if isinstance(token, int) and 0 <= token < size))


def suppress_placeholders(model: nn.Module) -> None:
    """Have the owner library's ``generate`` leave placeholder tokens out too, now and once saved."""
    config = getattr(unwrap(model), "generation_config", None)
    if config is not None:
        config.suppress_tokens = sorted({*(config.suppress_tokens or ()), *placeholder_ids(model)}) or None


def _load_adapter(source: str, *, device: str, dtype: str) -> nn.Module:
    from peft import PeftConfig, PeftModel

    if not (Path(source) / "adapter_model.safetensors").is_file():
        raise UserError(f'"{source}" holds an adapter without adapter_model.safetensors')
    base = PeftConfig.from_pretrained(source).base_model_name_or_path
    if not base:
        raise UserError(f'"{source}/{_ADAPTER}" does not name its base model (base_model_name_or_path)')
    model = load_model(base, device=device, dtype=dtype)
    return PeftModel.from_pretrained(model, source, is_trainable=True).eval()


def _check_source(source: str) -> None:
    if not source:
        raise UserError("no model given: set model.model_name_or_path to a folder or a hub name")
    looks_local = source.startswith((".", "~", os.sep)) or source.count("/") > 1
    if looks_local and not Path(source).is_dir():
        raise UserError(f'model folder "{source}" does not exist')


def _check_head(model: nn.Module, source: str) -> None:
    """Compare the model's own logits on a few tokens with body + head; refuse unknown logit transforms."""
    ids = torch.tensor([[1, 2, 3]], device=next(model.parameters()).device)
    with torch.no_grad():
        whole = model(input_ids=ids, use_cache=False).logits.float()
        ours = head_logits(model, body(model)(input_ids=ids, use_cache=False)[0])
    gap = float((whole - ours).abs().max())
    if not gap <= 1e-3 * max(1.0, float(whole.abs().max())):
        raise UserError(
            f'"{source}" ({type(model).__name__}) changes its logits after the head by up to {gap:.2g} in a '
            "way that is not known here; log-probs would be wrong"
        )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
