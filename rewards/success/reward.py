"""The classifier's reward, with what an audit of its claims needs."""

from __future__ import annotations

import torch

from mmalign.rewards.rapl.reward import episodes_of
from mmalign.rewards.rapl.videos import frames_at
from mmalign.rewards.success.model import SuccessModel
from mmalign.types import Rollout, StepReward

__all__ = ["THRESHOLD", "SuccessReward"]

THRESHOLD = 5.0
"""Log-odds above which a frame counts as success: a wrong claim ends an episode and is paid, a missed one is not.
High, for training gave both classes the same weight, and an episode is looked at twenty times."""


class SuccessReward:
    """1 on the first step whose picture the classifier takes for success, 0 elsewhere; the task ends there.

    The truth is read for the audit alone (``claimed``, ``true``, ``false_claim``); it is never paid.

    Args:
        model: the classifier.
        threshold: log-odds above which a frame counts as success.
        every: looks at every so manieth step, and at the last.
    """

    def __init__(self, model: SuccessModel, *, threshold: float = THRESHOLD, every: int = 2) -> None:
        self.model, self.threshold, self.every = model.eval(), threshold, every

    @torch.no_grad()
    def __call__(self, rollout: Rollout) -> StepReward:
        """Look, claim, end."""
        paid = torch.zeros(rollout.mask.shape)
        ends = torch.full((len(rollout),), -1.0)
        notes = {name: torch.zeros(len(rollout)) for name in ("claimed", "true", "false_claim")}
        for b, episode in enumerate(episodes_of(rollout.rows)):
            index = sorted({*range(self.every, len(episode) + 1, self.every), len(episode)})
            seen = (self.model(frames_at(episode, index, pool=1)) > self.threshold).tolist()
            first = next((k for k, hit in enumerate(seen) if hit), None)
            notes["true"][b] = float(episode.succeeded)
            if first is not None:
                step = index[first] - 1
                ends[b], paid[b, step] = step, 1.0
                notes["claimed"][b] = 1.0
                notes["false_claim"][b] = float(not episode.success[step])
        return StepReward(paid, {"success": paid}, {**notes, "terminal_step": ends})
