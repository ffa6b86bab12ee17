"""Factually Augmented RLHF: the reward model is told facts that the policy never sees."""

from __future__ import annotations

from mmalign.rewards.factual.facts import Facts
from mmalign.rewards.factual.terms import CorrectChoice, CorrectFacts

__all__ = ["CorrectChoice", "CorrectFacts", "Facts"]
