"""Hugging Face causal language models as policies (``TextAdapter``)."""

from __future__ import annotations

from mmalign.modalities.text.adapter import TextAdapter

__all__ = ["TextAdapter"]
