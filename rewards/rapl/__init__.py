"""RAPL: an encoder of frames aligned by ranked videos, and a reward by optimal transport to an expert's video."""

from __future__ import annotations

from mmalign.rewards.rapl.recipe import FrameScoreRecipe, Rapl

__all__ = ["FrameScoreRecipe", "Rapl"]
