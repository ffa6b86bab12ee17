"""What every autoregressive token policy shares: encoding, scoring, sampling, LoRA.  Not a modality by itself."""

from __future__ import annotations

from mmalign.modalities.tokens.adapter import TokenAdapter
from mmalign.modalities.tokens.lora import attach_lora

__all__ = ["TokenAdapter", "attach_lora"]
