"""VPL: a reward with a latent user, inferred from a few of that user's comparisons."""

from __future__ import annotations

from mmalign.rewards.vpl.recipe import VPL, OneForAll

__all__ = ["VPL", "OneForAll"]
