"""Reading and writing Hugging Face token models: safetensors only, no remote code."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from torch import nn
from transformers import AutoConfig, AutoProcessor
from transformers.utils import logging

from mmalign.errors import UserError, nearest
from mmalign.modalities.tokens.forward import body, unwrap
from mmalign.modalities.tokens.head import head_logits
from mmalign.tuners import is_mergeable

__all__ = [
    "adapter_base",
    "check_kind",
    "first_line",
    "load_pretrained",
    "placeholder_ids",
    "read_processor",
    "save_model",
    "stop_ids",
    "suppress_placeholders",
]

_DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "auto": "auto",
}
_MERGED = "merged_adapter"
_ADAPTER = "adapter_config.json"
_PLACEHOLDERS = ("image_token_id", "image_token_index", "video_token_id", "audio_token_id")


def load_pretrained(
    source: str,
    auto: Any,
    check: Callable[[str], None],
    *,
    what: str,
    device: str,
    dtype: str,
    merge: bool = True,
    check_head: Callable[[nn.Module, str], None] | None = None,
) -> nn.Module:
    """Load a model through an ``AutoModel`` class; an adapter folder is merged into its base, or kept.

    Args:
        source: folder or hub name.
        auto: the ``AutoModelFor...`` class.
        check: refuses a source of another kind by its configuration.
        what: the kind of model, for messages.
        device: where to.
        dtype: number format.
        merge: merge an adapter folder into its base, where that can be done; else, or where it cannot, the model is
            a trainable ``PeftModel``.
        check_head: refuses a loaded model whose logits are not known here; by default body and head are compared.

    Raises:
        UserError: when the source is missing, of another kind or not in safetensors.
    """
    if dtype not in _DTYPES:
        raise UserError(f'unknown dtype "{dtype}"{nearest(dtype, _DTYPES)}; one of {", ".join(_DTYPES)}')
    base = adapter_base(source)
    if base:
        below = load_pretrained(
            base, auto, check, what=what, device=device, dtype=dtype, check_head=check_head
        )
        tuned = PeftModel.from_pretrained(below, source, is_trainable=True)
        return _merged(tuned, source) if merge and is_mergeable(tuned) else tuned.eval()
    check(source)
    try:
        with _quiet():
            model, info = auto.from_pretrained(
                source,
                dtype=_DTYPES[dtype],
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise UserError(f'no {what} could be loaded from "{source}" ({first_line(error)})') from error
    lost = sorted({*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])})
    if lost:
        raise UserError(
            f'"{source}": {len(lost)} weights are missing or of another shape ("{lost[0]}", ...); '
            "they would be random"
        )
    loaded: nn.Module = model.to(device).eval()
    (check_head or _check_head)(loaded, source)
    return loaded


def save_model(model: nn.Module, processor: Any, folder: Path, *, merge: bool = False) -> None:
    """Write weights (safetensors) and processor; a ``PeftModel`` writes its adapter unless ``merge``.

    An adapter that stands on a merged one is always merged: its base is in no folder of its own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: Any = model
    while isinstance(getattr(written, "module", None), nn.Module):
        written = written.module
    if hasattr(written, "merge_and_unload") and (merge or hasattr(unwrap(model), _MERGED)):
        written = copy.deepcopy(written).merge_and_unload()
    with _quiet():
        written.save_pretrained(folder)
        processor.save_pretrained(folder)


def stop_ids(model: nn.Module, tokenizer: Any) -> tuple[int, ...]:
    """Token ids that end an answer: the generation config's, else the tokenizer's end token."""
    config = getattr(unwrap(model), "generation_config", None)
    ids = getattr(config, "eos_token_id", None)
    ids = tokenizer.eos_token_id if ids is None else ids
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


def adapter_base(source: str) -> str | None:
    """The base model of a PEFT adapter folder, or ``None`` when ``source`` is not one.

    Raises:
        UserError: when the adapter is not in safetensors or does not name its base model.
    """
    if not (Path(source) / _ADAPTER).is_file():
        return None
    if not (Path(source) / "adapter_model.safetensors").is_file():
        raise UserError(f'"{source}" holds an adapter without adapter_model.safetensors')
    base = PeftConfig.from_pretrained(source).base_model_name_or_path
    if not base:
        raise UserError(f'"{source}/{_ADAPTER}" does not name its base model (base_model_name_or_path)')
    return str(base)


def check_kind(source: str, known: Collection[str], what: str, *, encoder_decoder: bool = False) -> None:
    """Refuse, by its configuration alone, a source whose model type is not among ``known``.

    ``encoder_decoder`` says of which of the two kinds the known models are.

    Raises:
        UserError: for an empty source, a folder that does not exist, or a model of another kind than ``what``.
    """
    if not source:
        raise UserError("no model given: set model.model_name_or_path to a folder or a hub name")
    looks_local = source.startswith((".", "~", os.sep)) or source.count("/") > 1
    if looks_local and not Path(source).is_dir():
        raise UserError(f'model folder "{source}" does not exist')
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f'"{source}" holds no readable config.json ({first_line(error)})') from error
    if config.model_type not in known or bool(config.is_encoder_decoder) != encoder_decoder:
        raise UserError(
            f'"{source}" is not {what}: its type is "{config.model_type}"{nearest(config.model_type, known)}'
        )


def read_processor(source: str) -> Any:
    """The processor of a folder or hub name, without remote code.

    Raises:
        UserError: when none could be loaded, with the first line of the reason.
    """
    auto: Any = AutoProcessor
    try:
        return auto.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError, TypeError) as error:
        raise UserError(f'no processor could be loaded from "{source}" ({first_line(error)})') from error


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _merged(tuned: PeftModel, source: str) -> nn.Module:
    model: nn.Module = tuned.merge_and_unload().eval()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    setattr(model, _MERGED, source)
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Switch the owner library's progress bars off: they tear the progress line of a run."""
    bars: Any = logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


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
