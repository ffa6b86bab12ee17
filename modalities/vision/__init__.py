"""Hugging Face image-text-to-text models as policies (``VisionAdapter``)."""

from __future__ import annotations

from mmalign.modalities.tokens.lora import attach_lora
from mmalign.modalities.vision.adapter import VisionAdapter

__all__ = ["VisionAdapter", "attach_lora"]
