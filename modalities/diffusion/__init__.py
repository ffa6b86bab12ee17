"""Diffusers text-to-image pipelines as policies (``DiffusionAdapter``)."""

from __future__ import annotations

from mmalign.modalities.diffusion.adapter import DiffusionAdapter
from mmalign.modalities.diffusion.options import DiffusionOptions

__all__ = ["DiffusionAdapter", "DiffusionOptions"]
