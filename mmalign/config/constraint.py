"""The section of a bound on cost: Safe RLHF's multiplier, for the stages ``ppo`` and ``grpo``."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from mmalign.config.fields import Bool, Count, Float, NonNegative, Positive, Section
from mmalign.config.sections import RewardConfig

__all__ = ["ConstraintConfig"]


class ConstraintConfig(Section):
    """Keep the mean cost of an answer at or below a limit (docs/objectives/constrained.md)."""

    enabled: Bool = False
    """Train under the bound; off, the stages maximise the reward alone."""
    cost: RewardConfig = RewardConfig(source="none")
    """The cost: a reward whose value is to stay low (``mmalign list rewards``)."""
    cost_run: str | None = None
    """Run folder whose stage ``reward_model`` trained the models of ``cost``; only for ``cost.source: model``."""
    cost_limit: Float = 0.0
    """Largest mean cost of an answer, in the cost's unit; 0 suits a cost model trained with sign terms."""
    lambda_init: Positive = 1.0
    """The multiplier at the start: how many units of reward one unit of cost is worth."""
    lambda_lr: NonNegative = 0.1
    """Step size of the multiplier in log space; 0 keeps it fixed."""
    lambda_max: Positive | None = 5.0
    """The multiplier is never above this; null for no bound."""
    lambda_delay_steps: Count = 0
    """First steps in which the multiplier stays as it is."""
    shuffle_cost: Bool = False
    """Control arm: every answer gets the cost of another answer of its batch."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.lambda_max is not None and self.lambda_init > self.lambda_max:
            raise ValueError(f"lambda_init: {self.lambda_init} is above lambda_max {self.lambda_max}")
        if self.enabled and self.cost.source == "model" and self.cost_run is None:
            raise ValueError(
                "cost_run: name the run folder whose stage reward_model trained the cost, "
                "or set cost.source to judge or none"
            )
        return self
