"""Reward models on compared answers: Bradley-Terry, Plackett-Luce, pairwise, and ensembles of them."""

from __future__ import annotations

from mmalign.rewards.preference.data import Ranked, ranked_from_feedback, ranked_from_rows
from mmalign.rewards.preference.metrics import quality
from mmalign.rewards.preference.model import PreferenceRewardModel
from mmalign.rewards.preference.reward import PreferenceReward
from mmalign.rewards.preference.view import View

__all__ = [
    "PreferenceReward",
    "PreferenceRewardModel",
    "Ranked",
    "View",
    "quality",
    "ranked_from_feedback",
    "ranked_from_rows",
]
