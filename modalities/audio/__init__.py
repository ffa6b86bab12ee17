"""Text to discrete audio tokens to sound (``AudioAdapter``), and audio in, text out (``AudioTextAdapter``)."""

from __future__ import annotations

from mmalign.modalities.audio.adapter import AudioAdapter
from mmalign.modalities.audio.understanding import AudioTextAdapter

__all__ = ["AudioAdapter", "AudioTextAdapter"]
