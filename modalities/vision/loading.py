"""Reading Hugging Face image-text-to-text models and their processors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoModelForImageTextToText
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from mmalign.errors import UserError
from mmalign.modalities.tokens.loading import adapter_base, check_kind, load_pretrained, read_processor

__all__ = ["load_model", "load_processor"]

_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")


def load_processor(source: str) -> Any:
    """Load the processor of ``source`` and check that it takes images and has a chat template.

    Raises:
        UserError: when the folder is missing, holds no image processor or no chat template.
    """
    base = adapter_base(source)
    if base and not any((Path(source) / name).is_file() for name in _PROCESSOR_FILES):
        source = base
    _check_kind(base or source)
    processor = read_processor(source)
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


def load_model(source: str, *, device: str, dtype: str, merge: bool = True) -> nn.Module:
    """Load an image-text-to-text model; an adapter folder is merged into its base, or kept with ``merge=False``.

    Raises:
        UserError: when the source is missing, not an image-text model or not in safetensors.
    """
    return load_pretrained(
        source,
        AutoModelForImageTextToText,
        _check_kind,
        what="image-text model",
        device=device,
        dtype=dtype,
        merge=merge,
    )


def _check_kind(source: str) -> None:
    """Refuse, by its configuration alone, whatever is not a decoder-only image-text-to-text model."""
    check_kind(source, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, "an image-text-to-text model")
