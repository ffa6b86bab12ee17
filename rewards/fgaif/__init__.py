"""Fine-grained AI feedback: reward models per hallucination type and the dense reward they give."""

from __future__ import annotations

from mmalign.rewards.fgaif.metrics import quality
from mmalign.rewards.fgaif.model import SegmentRewardModel
from mmalign.rewards.fgaif.oracle import OracleReward
from mmalign.rewards.fgaif.reward import FGAIFReward
from mmalign.rewards.shaping import Shaping

__all__ = ["FGAIFReward", "OracleReward", "SegmentRewardModel", "Shaping", "quality"]
