"""Rewards that an episode carries itself: the environment's own, progress towards success, and costs.

Every reward of an environment step is paid on the step of the answer that ``row.steps.earned`` names: its own step, or
the last denoising step of the chunk it was part of.

Nothing is added where the time limit cuts an episode: the advantage takes the value after the last step to be 0.  That
is right where the observation tells the time (sweep, and ``time_in_observation``), and biased where it does not (Pardo
et al., 2018, arXiv:1712.00378).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from mmalign.errors import UserError
from mmalign.rng import numpy_generator
from mmalign.types import Rollout, Row, StepReward

__all__ = ["EpisodeReward"]

_PROGRESS, _APPROACH = 0, 1


class EpisodeReward:
    """The weighted sum of what an episode earned.

    Args:
        environment: weight of the environment's own reward (sweep: the change of the share of blocks in place).
        progress: weight of the first potential's change (sweep: how much nearer the blocks came, in table units).
        approach: weight of the second potential's change (sweep: how much nearer the robot came to a block that is
            not in place); not paid in a step that places or loses a block, where another block becomes the nearest.
        success: paid once, on the first step that succeeds.
        step: paid every step; a cost where negative.
        shuffle: control arm: every episode is paid what another of the batch earned, drawn from this seed; what that
            one earned after this one's end is paid on the last step.

    Raises:
        UserError: when an answer is no episode, or lacks a potential that is to be paid.
    """

    def __init__(
        self,
        environment: float = 1.0,
        progress: float = 0.0,
        approach: float = 0.0,
        success: float = 0.0,
        step: float = 0.0,
        shuffle: int | None = None,
    ) -> None:
        self.weights = {
            "environment": environment,
            "progress": progress,
            "approach": approach,
            "success": success,
            "step": step,
        }
        if not any(self.weights.values()):
            raise UserError("reward.options: every weight of episode is 0, so nothing is rewarded")
        self.shuffle = shuffle

    def __call__(self, rollout: Rollout) -> StepReward:
        """Return the reward of every step with its named parts."""
        earned = [self._earned(row) for row in rollout.rows]
        source = (
            list(range(len(earned))) if self.shuffle is None else _derangement(rollout.rows, self.shuffle)
        )
        parts = {}
        for name in (name for name, weight in self.weights.items() if weight):
            values = torch.zeros(rollout.mask.shape)
            for b, (row, other) in enumerate(zip(rollout.rows, source, strict=True)):
                paid = torch.from_numpy(_fitted(earned[other][name], len(earned[b][name])))
                values[b].index_add_(0, row.steps.earned, paid.float() * self.weights[name])
            parts[name] = values.to(rollout.mask.device)
        return StepReward(torch.stack(list(parts.values())).sum(0), parts)

    def _earned(self, row: Row) -> dict[str, NDArray[np.float64]]:
        """Each term of one episode, ``[N]`` per environment step, without its weight."""
        episode = row.completion
        if not hasattr(episode, "rewards") or not hasattr(row.steps, "earned"):
            raise UserError(f"row {row.id}: reward episode pays for sampled episodes, found {episode!r:.60}")
        rewards = np.asarray(episode.rewards, dtype=np.float64)
        first = np.zeros(len(rewards))
        if episode.success.any():
            first[int(np.argmax(episode.success))] = 1.0
        found = {"environment": rewards, "success": first, "step": np.ones(len(rewards))}
        if self.weights["progress"] or self.weights["approach"]:
            if episode.potential is None:
                raise UserError(
                    f"row {row.id}: its environment has no potential; set progress and approach to 0 (reward.options)"
                )
            change = np.diff(np.asarray(episode.potential, dtype=np.float64), axis=0)
            found["progress"] = change[:, _PROGRESS]
            found["approach"] = np.where(rewards == 0.0, change[:, _APPROACH], 0.0)
        return found


def _fitted(values: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """``values`` as ``n`` steps with the same sum."""
    if len(values) <= n:
        return np.pad(values, (0, n - len(values)))
    return np.append(values[: n - 1], values[n - 1 :].sum())


def _derangement(rows: Sequence[Row], seed: int) -> list[int]:
    """Whose reward each episode is paid: never its own, where there are two or more."""
    order = numpy_generator(seed, "shuffled rewards", *(row.id for row in rows)).permutation(len(rows))
    following = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))
    return [following[k] for k in range(len(rows))]
