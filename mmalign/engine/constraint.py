"""A bound on cost in the online loop: the cost itself, its multiplier (part of a checkpoint) and its critic."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from mmalign.objectives.constrained import multiplier_step
from mmalign.objectives.rewards import sequence_placement
from mmalign.types import Rollout, StepReward

if TYPE_CHECKING:
    from mmalign.config.constraint import ConstraintConfig
    from mmalign.engine.critic import Critic

__all__ = ["Constraint", "Multiplier"]


@dataclass
class Multiplier:
    """The multiplier of the bound, kept as its natural logarithm so that it stays positive."""

    log_value: float

    @property
    def value(self) -> float:
        """How many units of reward one unit of cost is worth."""
        return math.exp(self.log_value)

    def state_dict(self) -> dict[str, Any]:
        """The current logarithm."""
        return {"log_value": self.log_value}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the logarithm."""
        self.log_value = float(state["log_value"])


@dataclass
class Constraint:
    """Mean cost of an answer at most ``cfg.cost_limit``, for any modality.

    Args:
        cost: what an answer costs, step by step; any reward will do.
        cfg: the ``constraint`` section.
        multiplier: one of the loop state's counters.
        critic: values of the cost, for ``advantage="gae"``.
    """

    cost: Callable[[Rollout], StepReward]
    cfg: ConstraintConfig
    multiplier: Multiplier
    critic: Critic | None = None

    def costs(self, rollout: Rollout, rng: torch.Generator) -> StepReward:
        """The cost of a rollout; under ``shuffle_cost`` each answer gets another one's total, on its last step."""
        made = self.cost(rollout)
        if not self.cfg.shuffle_cost:
            return made
        order = torch.randperm(len(rollout), generator=rng).to(made.per_step.device)
        totals = made.per_step.sum(-1)[order]
        moved = torch.zeros_like(made.per_step)
        moved[:, 0] = totals
        placed = sequence_placement(moved, rollout.mask)
        return StepReward(placed, {"shuffled": placed})

    def update(self, mean_cost: float, step: int) -> None:
        """Move the multiplier by the mean cost of this step's answers, once the delay is over."""
        if step > self.cfg.lambda_delay_steps:
            self.multiplier.log_value = multiplier_step(
                self.multiplier.log_value,
                mean_cost,
                self.cfg.cost_limit,
                self.cfg.lambda_lr,
                self.cfg.lambda_max,
            )
