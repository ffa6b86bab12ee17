"""The configured bound on a cost: the cost is a reward like any other, from this run or from a run of its own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from mmalign.engine.constraint import Constraint, Multiplier
from mmalign.errors import UserError
from mmalign.pipeline.rewarding import build_reward

if TYPE_CHECKING:
    from mmalign.pipeline.context import RunContext

__all__ = ["build_constraint"]


def build_constraint(ctx: RunContext) -> Constraint | None:
    """The bound of section ``constraint`` without its critic, or ``None`` where it is off.

    Raises:
        UserError: when ``cost_run`` has no finished stage ``reward_model``, or the cost cannot be made.
    """
    cfg = ctx.cfg.constraint
    if not cfg.enabled:
        return None
    home = ctx
    if cfg.cost_run is not None:
        home = type(ctx)(ctx.cfg.model_copy(update={"reuse_from": None}), Path(cfg.cost_run))
        if not home.is_done("reward_model"):
            raise UserError(f"constraint.cost_run: {cfg.cost_run} has no finished stage reward_model")
    return Constraint(build_reward(home, cfg.cost), cfg, Multiplier(math.log(cfg.lambda_init)))
