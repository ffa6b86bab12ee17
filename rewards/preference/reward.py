"""A trained preference model as a reward: each step's own part of the score, or all of it on the last real step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmalign.errors import UserError
from mmalign.objectives.reward_model import lower_confidence
from mmalign.rewards.placing import last_steps, place
from mmalign.rewards.preference.model import PreferenceRewardModel
from mmalign.types import Rollout, StepReward

__all__ = ["PreferenceReward"]


class PreferenceReward:
    """Pay ``mean - k std`` over the ensemble's standardised scores.

    Where the score is a sum or mean over steps each step is paid its part (``AtEnd`` moves the same total to the last
    real step); a score read after the last step, and the disagreement, stand there.  The parts are ``preference``
    (the mean) and, for an ensemble with ``k`` above 0, ``disagreement`` (``-k`` standard deviations).  A pairwise
    model pays an answer its mean chance of beating the other answers to the same prompt, less one half, so it needs at
    least two answers per prompt.

    Args:
        model: a trained model.
        k: how many standard deviations of disagreement are taken off.
        batch_size: rows per pass.
    """

    def __init__(self, model: PreferenceRewardModel, k: float = 0.0, batch_size: int = 64) -> None:
        self.model, self.k, self.batch_size = model, k, batch_size

    def __call__(self, rollout: Rollout) -> StepReward:
        """Return the reward of every answer."""
        ends = last_steps(rollout.mask)
        real = [b for b, t in enumerate(ends) if t >= 0]
        rows = [rollout.rows[b] for b in real]

        def at_end(values: Tensor) -> Tensor:
            return place(rollout.mask, [(b, ends[b], float(v)) for b, v in zip(real, values, strict=True)])

        if self.model.options.loss == "pairwise":
            members = self._wins(rollout, real)
            parts = {"preference": at_end(members.mean(dim=0))}
        else:
            steps = self.model.step_scores(rows, self.batch_size)
            members = torch.stack([part.sum(dim=1) for part in steps], dim=1)
            parts = {"preference": _laid_out(rollout.mask, real, steps)}
        if self.k and members.shape[0] > 1:
            parts["disagreement"] = at_end(-self.k * lower_confidence(members.float().cpu(), self.k)[1])
        return StepReward(torch.stack(list(parts.values())).sum(dim=0), parts)

    def _wins(self, rollout: Rollout, real: list[int]) -> Tensor:
        rows = [rollout.rows[b] for b in real]
        group = [int(rollout.group[b]) for b in real]
        rivals = [
            (i, j) for i in range(len(rows)) for j in range(len(rows)) if i != j and group[i] == group[j]
        ]
        if len({i for i, _ in rivals}) < len(rows):
            raise UserError(
                "a pairwise reward compares answers to one prompt; set num_generations to 2 or more"
            )
        odds = self.model.odds([rows[i] for i, _ in rivals], [rows[j] for _, j in rivals], self.batch_size)
        wins = torch.sigmoid(odds) - 0.5
        first = torch.tensor([i for i, _ in rivals], device=wins.device)
        total = torch.zeros(wins.shape[0], len(rows), device=wins.device).index_add_(1, first, wins)
        return total / torch.bincount(first, minlength=len(rows))


def _laid_out(mask: Tensor, real: list[int], steps: Sequence[Tensor]) -> Tensor:
    """The members' mean of each step's part ``[B, T]``; answers without a step get nothing."""
    out = torch.zeros(mask.shape)
    for b, part in zip(real, steps, strict=True):
        out[b, : part.shape[1]] = part.float().mean(dim=0).cpu()
    return out.to(mask.device)
