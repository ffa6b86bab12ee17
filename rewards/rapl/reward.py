"""The reward of a rollout by transport to expert videos: per step, once the episode is over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mmalign.errors import UserError
from mmalign.rewards.rapl.encoder import AlignedEncoder, FrameScore
from mmalign.rewards.rapl.videos import frames_at
from mmalign.types import Rollout, Row, StepReward
from mmalign.worlds.sweep import Episode

__all__ = ["RaplReward", "ScoreReward", "episodes_of"]


class RaplReward:
    """``Rollout -> StepReward``: every step is paid for the frame after it.

    Args:
        model: the aligned encoder.
        experts: task -> expert videos ``[K, F, 3, H, W]``.
        every: frames are embedded at every so manieth step; the steps between are paid the next frame's reward.
        weight: the episode's total is this times minus the mean transport cost to the experts.
    """

    def __init__(
        self, model: AlignedEncoder, experts: Mapping[str, Tensor], *, every: int = 4, weight: float = 1.0
    ) -> None:
        self.model, self.every, self.weight = model, every, weight
        with torch.no_grad():
            self.experts = {task: model.encoder.videos(videos) for task, videos in experts.items()}

    @torch.no_grad()
    def __call__(self, rollout: Rollout) -> StepReward:
        """Pay each step its share of the transport cost."""
        paid = torch.zeros(rollout.mask.shape)
        for b, episode in enumerate(episodes_of(rollout.rows)):
            paid[b, : len(episode)] = self.weight * self._steps(rollout.rows[b], episode)
        return StepReward(paid, {"rapl": paid})

    def _steps(self, row: Row, episode: Episode) -> Tensor:
        task = str(episode.start.get("task", ""))
        if task not in self.experts:
            raise UserError(
                f"row {row.id}: no expert video of task {task!r}, only of {', '.join(self.experts)}"
            )
        index = _every(len(episode), self.every)
        rewards = self.model.paid(self.model.encoder(frames_at(episode, index)), self.experts[task])
        return _spread(rewards, index)


class ScoreReward:
    """``Rollout -> StepReward``: an episode is paid the mean score of its frames, each frame its own share.

    Args:
        model: the scores.
        every: as :class:`RaplReward`.
        weight: the episode's total is this times the mean score.
    """

    def __init__(self, model: FrameScore, *, every: int = 4, weight: float = 1.0) -> None:
        self.model, self.every, self.weight = model, every, weight

    def __call__(self, rollout: Rollout) -> StepReward:
        """Pay each step its share."""
        paid = torch.zeros(rollout.mask.shape)
        for b, episode in enumerate(episodes_of(rollout.rows)):
            index = _every(len(episode), self.every)
            scores = self.model.rewards(frames_at(episode, index)) / len(index)
            paid[b, : len(episode)] = self.weight * _spread(scores, index)
        return StepReward(paid, {"score": paid})


def _every(steps: int, every: int) -> list[int]:
    """Every ``every``-th step after the first, and the last."""
    return sorted({*range(every, steps + 1, every), steps})


def _spread(rewards: Tensor, index: Sequence[int]) -> Tensor:
    """The reward of each looked-at frame over the steps since the one before; the sum stays."""
    width = torch.tensor([b - a for a, b in zip([0, *index[:-1]], index, strict=True)])
    return (rewards / width).repeat_interleave(width)


def episodes_of(rows: Sequence[Row]) -> list[Episode]:
    """The episodes of answered rows.

    Raises:
        UserError: when a row has none.
    """
    for row in rows:
        if not isinstance(row.completion, Episode) or not len(row.completion):
            raise UserError(f"row {row.id}: has no episode to reward")
    return [row.completion for row in rows]
