"""The controls of every reward: the same numbers given to the wrong answers, or earned for the wrong prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mmalign import registry
from mmalign.errors import UserError
from mmalign.objectives.masked import masked_sum
from mmalign.protocols import DifferentiableReward, Reward, RewardRecipe
from mmalign.rewards.placing import last_steps, place
from mmalign.rng import generator
from mmalign.types import Rollout, Row, StepReward

__all__ = ["Shuffled"]


class Shuffled:
    """Permute a reward among all answers of a rollout, so that it knows neither answer nor prompt.

    The order is drawn from the totals themselves, so the same answers are shuffled alike when a run resumes.  Where the
    reward is differentiated, every answer is scored for the prompt of another row instead.  With ``what="prompts"`` so
    are answers that are drawn: what does not depend on the prompt is still paid rightly.

    Args:
        reward: a registered plain reward, with its own defaults.
        seed: of the order.
        what: ``answers`` permutes totals, ``prompts`` scores the answers of each prompt for the next one.

    Raises:
        UserError: when ``reward`` is a recipe, or itself shuffled, or ``what`` is neither.
    """

    def __init__(self, reward: str, seed: int = 0, what: str = "answers") -> None:
        if what not in ("answers", "prompts"):
            raise UserError(f"reward: shuffled shuffles answers or prompts, not {what!r}")
        if reward == "shuffled":
            raise UserError("reward: shuffled holds another reward, found itself")
        inner: Any = registry.load("rewards", reward)()
        if isinstance(inner, RewardRecipe):
            raise UserError(f"reward: {reward} is a recipe, which trains models; shuffle its labels instead")
        self.inner: Reward = inner
        self.name, self.seed, self.what = reward, seed, what

    def __call__(self, rollout: Rollout) -> StepReward:
        """Return the permuted totals on the last steps, or the reward for other prompts."""
        if self.what == "prompts":
            return self.inner(_for_other_prompts(rollout))
        totals = masked_sum(self.inner(rollout).per_step, rollout.mask, 1).cpu()
        mark = hashlib.sha256(totals.double().numpy().tobytes()).hexdigest()
        order = torch.randperm(len(totals), generator=generator(self.seed, "shuffled", mark))
        ends = last_steps(rollout.mask)
        entries = [(b, t, float(totals[order[b]])) for b, t in enumerate(ends) if t >= 0]
        per_step = place(rollout.mask, entries)
        return StepReward(per_step, {"shuffled": per_step})

    def score(self, rows: Sequence[Row], outputs: Tensor) -> Tensor:
        """The reward of each answer ``[B, ...]`` for the prompt of the row after it, ``[B]``, with gradient.

        Raises:
            UserError: when the reward cannot be differentiated, or there is one row alone.
        """
        if not isinstance(self.inner, DifferentiableReward):
            raise UserError(
                f"reward {self.name}: cannot be differentiated (it has no score of the answers themselves)"
            )
        if len(rows) < 2:
            raise UserError("reward shuffled: one row has no other prompt; raise per_device_train_batch_size")
        return self.inner.score([*rows[1:], rows[0]], outputs)


def _for_other_prompts(rollout: Rollout) -> Rollout:
    """Every answer as if it had been given to the next prompt of the rollout.

    Raises:
        UserError: when all answers are to one prompt.
    """
    group = rollout.group.tolist()
    first = {number: place for place, number in reversed(list(enumerate(group)))}
    order = sorted(first)
    if len(order) < 2:
        raise UserError("reward shuffled: one prompt has no other; raise rollout_batch_size")
    after = dict(zip(order, [*order[1:], order[0]], strict=True))
    others = [rollout.rows[first[after[number]]] for number in group]
    rows = [
        replace(row, prompt=other.prompt, meta=other.meta)
        for row, other in zip(rollout.rows, others, strict=True)
    ]
    return replace(rollout, rows=tuple(rows))
