"""Combinators: rewards that hold other rewards.  Parts keep their names and always add up.

The KL term is ``-kl_coef * KL_t`` with KL_t estimated from the sampled step: it is *added*, so a
policy that has left the reference is paid less.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from mmalign.errors import UserError
from mmalign.objectives.kl import kl_penalty
from mmalign.objectives.rewards import sequence_placement
from mmalign.protocols import Reward
from mmalign.types import Rollout, StepReward

__all__ = ["AtEnd", "Clip", "RunningNorm", "WeightedSum", "add_kl", "at_end", "scaled"]


def scaled(reward: StepReward, factor: float) -> StepReward:
    """Multiply a reward and each of its parts by ``factor``."""
    parts = {name: part * factor for name, part in reward.parts.items()}
    return StepReward(reward.per_step * factor, parts, reward.notes)


def at_end(reward: StepReward, mask: Tensor) -> StepReward:
    """Move every part's total to the last real step: the same reward, paid as one sequence reward.

    Args:
        reward: any reward over ``[B, T]``.
        mask: ``[B, T]`` bool.
    """
    named = reward.parts or {"reward": reward.per_step}
    parts = {name: sequence_placement(part, mask) for name, part in named.items()}
    return StepReward(_total(parts), parts, reward.notes)


def add_kl(
    reward: StepReward,
    logp: Tensor,
    logp_ref: Tensor,
    mask: Tensor,
    kl_coef: float,
    estimator: Literal["k1", "k3"] = "k1",
) -> StepReward:
    """Add the part ``kl = -kl_coef * KL_t`` (nats per step), masked.

    ``k1 = logp - logp_ref`` (unbiased, may be negative at a step, never clamped);
    ``k3 = exp(-k1) - 1 + k1`` (never negative).

    Args:
        reward: reward over ``[B, T]``; its parts must not hold ``kl`` yet.
        logp: ``[B, T]`` behaviour log-probabilities in nats.
        logp_ref: ``[B, T]`` reference log-probabilities in nats.
        mask: ``[B, T]`` bool.
        kl_coef: weight of the penalty, not negative.
        estimator: ``k1`` or ``k3``.

    Raises:
        UserError: when ``kl_coef`` is negative (that would pay for leaving the reference).
    """
    if kl_coef < 0:
        raise UserError(
            f"kl_coef: expected a number >= 0, found {kl_coef} (a penalty is subtracted for you)."
        )
    if "kl" in reward.parts:
        raise ValueError("the reward already has a part 'kl'")
    part = -kl_coef * kl_penalty(logp, logp_ref, estimator, mask)
    parts = dict(reward.parts) or {"reward": reward.per_step}
    return StepReward(reward.per_step + part, {**parts, "kl": part})


class WeightedSum:
    """Add named rewards: ``r_t = sum_k w_k r_{k,t}``.

    Args:
        terms: name -> reward.
        weights: name -> weight; 1 where absent.

    A term with one part keeps the term's name, one with several gives ``term/part``; notes keep their names.
    """

    def __init__(self, terms: Mapping[str, Reward], weights: Mapping[str, float] | None = None) -> None:
        if not terms:
            raise UserError("rewards: expected at least one reward to add up.")
        self.terms = dict(terms)
        self.weights = dict(weights or {})
        unknown = set(self.weights) - set(self.terms)
        if unknown:
            raise UserError(f"weights: {sorted(unknown)} name no reward; rewards are {sorted(self.terms)}.")

    def __call__(self, rollout: Rollout) -> StepReward:
        """Return the weighted sum with the parts of every term."""
        parts: dict[str, Tensor] = {}
        notes: dict[str, Tensor] = {}
        for name, term in self.terms.items():
            value = scaled(term(rollout), self.weights.get(name, 1.0))
            notes.update(value.notes)
            if len(value.parts) <= 1:
                parts[name] = value.per_step
            else:
                parts.update({f"{name}/{part}": tensor for part, tensor in value.parts.items()})
        return StepReward(_total(parts), parts, notes)

    def state_dict(self) -> dict[str, Any]:
        """State of every stateful term."""
        return {name: _state(term) for name, term in self.terms.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        for name, term in self.terms.items():
            _restore(term, state[name])


class AtEnd:
    """Pay another reward's total on the last real step (the sparse arm of dense against sparse)."""

    def __init__(self, inner: Reward) -> None:
        self.inner = inner

    def __call__(self, rollout: Rollout) -> StepReward:
        """Return the inner reward moved to the end, part by part."""
        return at_end(self.inner(rollout), rollout.mask)

    def state_dict(self) -> dict[str, Any]:
        """State of the inner reward."""
        return {"inner": _state(self.inner)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        _restore(self.inner, state["inner"])


class Clip:
    """Clip each step's reward to ``[-limit, limit]``; the difference is the part ``clip``."""

    def __init__(self, inner: Reward, limit: float) -> None:
        if limit <= 0:
            raise UserError(f"clip: expected a limit above 0, found {limit}.")
        self.inner = inner
        self.limit = limit

    def __call__(self, rollout: Rollout) -> StepReward:
        """Return the clipped reward."""
        raw = self.inner(rollout)
        per_step = raw.per_step.clamp(-self.limit, self.limit)
        parts = dict(raw.parts) or {"reward": raw.per_step}
        return StepReward(per_step, {**parts, "clip": per_step - raw.per_step}, raw.notes)

    def state_dict(self) -> dict[str, Any]:
        """State of the inner reward."""
        return {"inner": _state(self.inner)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        _restore(self.inner, state["inner"])


class RunningNorm:
    """Divide a reward by the running standard deviation of the answers' totals (the mean stays).

    Dense and sequence placement have the same totals and so the same divisor.  Not-applicable
    segments stay exactly 0 because nothing is subtracted.  Counts are summed over processes.

    Args:
        inner: the reward to normalise.
        eps: lower bound of the divisor.
    """

    def __init__(self, inner: Reward, eps: float = 1e-2) -> None:
        self.inner = inner
        self.eps = eps
        self.frozen = False
        self.count, self.total, self.squares = 0.0, 0.0, 0.0

    @property
    def std(self) -> float:
        """Standard deviation seen so far (1 before there are two answers)."""
        if self.count < 2:
            return 1.0
        mean = self.total / self.count
        return math.sqrt(max(self.squares - self.count * mean * mean, 0.0) / (self.count - 1))

    def __call__(self, rollout: Rollout) -> StepReward:
        """Update the statistics (unless ``frozen``) and return the scaled reward."""
        raw = self.inner(rollout)
        if not self.frozen:
            self._update(raw.per_step.sum(dim=1).double())
        return scaled(raw, 1.0 / max(self.std, self.eps))

    def _update(self, totals: Tensor) -> None:
        sums = torch.stack([torch.ones_like(totals).sum(), totals.sum(), totals.square().sum()])
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)
        count, total, squares = sums.tolist()
        self.count, self.total, self.squares = self.count + count, self.total + total, self.squares + squares

    def state_dict(self) -> dict[str, Any]:
        """Counts and the inner reward's state (plain numbers: they fit in JSON)."""
        own = {"count": self.count, "total": self.total, "squares": self.squares}
        return {**own, "inner": _state(self.inner)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.count, self.total, self.squares = state["count"], state["total"], state["squares"]
        _restore(self.inner, state["inner"])


def _total(parts: Mapping[str, Tensor]) -> Tensor:
    return torch.stack(list(parts.values())).sum(dim=0)


def _state(reward: Reward) -> dict[str, Any]:
    return reward.state_dict() if hasattr(reward, "state_dict") else {}


def _restore(reward: Reward, state: Mapping[str, Any]) -> None:
    if hasattr(reward, "load_state_dict"):
        reward.load_state_dict(state)
