"""Hugging Face image-text-to-text models as policies (``VisionAdapter``)."""

from __future__ import annotations

from mmalign.modalities.vision.adapter import VisionAdapter
from mmalign.modalities.vision.lora import attach_lora

__all__ = ["VisionAdapter", "attach_lora"]
