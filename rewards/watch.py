"""What the known truth says of the answers a policy is trained on: logged beside the reward, never paid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from mmalign.feedback.facts import Extractor, facts_of
from mmalign.protocols import Judge, Reward
from mmalign.types import Rollout, Row, StepReward

__all__ = ["WatchTruth"]


class WatchTruth:
    """Pass a reward through and note, per answer, ``truth/wrong`` and ``truth/net``.

    ``truth/wrong`` is the share of wrong ones among an answer's distinct judged facts (0 where it states none),
    ``truth/net`` the number of right less wrong ones.  Held against the reward over training steps they show whether
    the reward is being hacked.

    Args:
        inner: the reward that trains.
        judge: knows the truth.
        extractor: reads the facts.
    """

    def __init__(self, inner: Reward, judge: Judge, extractor: Extractor) -> None:
        self.inner, self.judge, self.extractor = inner, judge, extractor

    def __call__(self, rollout: Rollout) -> StepReward:
        """Return the inner reward with the two notes."""
        reward = self.inner(rollout)
        counts = [self._count(row) for row in rollout.rows]
        wrong = [bad / (good + bad) if good + bad else 0.0 for good, bad in counts]
        notes = {
            "truth/wrong": torch.tensor(wrong),
            "truth/net": torch.tensor([float(good - bad) for good, bad in counts]),
        }
        return replace(reward, notes={**reward.notes, **notes})

    def state_dict(self) -> dict[str, Any]:
        """State of the inner reward."""
        return self.inner.state_dict() if hasattr(self.inner, "state_dict") else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        if hasattr(self.inner, "load_state_dict"):
            self.inner.load_state_dict(state)

    def _count(self, row: Row) -> tuple[int, int]:
        texts = [segment.text for segment in row.segments] or [str(row.completion)]
        stated = {(f.type, f.key): f for facts in facts_of(self.extractor, texts) for f in facts}
        labels = self.judge.verify(row, list(stated.values())) if stated else []
        return sum(label > 0 for label in labels), sum(label < 0 for label in labels)
