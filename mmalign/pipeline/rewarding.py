"""The configured reward, built through the registry: the core knows no reward by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmalign import registry
from mmalign.errors import UserError, nearest
from mmalign.pipeline.judging import build_judge
from mmalign.protocols import RewardRecipe, RewardTrainer

if TYPE_CHECKING:
    from mmalign.config.schema import RewardConfig
    from mmalign.pipeline.context import RunContext
    from mmalign.types import Rollout, StepReward

__all__ = ["build_reward", "reward_model_folder"]


def build_reward(ctx: RunContext, cfg: RewardConfig) -> Callable[[Rollout], StepReward]:
    """Make the reward of ``cfg``: learned models, the judge itself, terms alone, or a plain reward.

    An entry of the group ``rewards`` is either a :class:`~mmalign.protocols.RewardRecipe`, which
    assembles the reward, or a plain :class:`~mmalign.protocols.Reward` class, made with
    ``reward.options``; a third party's needs no change here.
    """
    entry: Any = registry.load("rewards", cfg.name)
    made = _made(cfg, entry)
    if not isinstance(made, RewardRecipe):
        plain: Callable[[Rollout], StepReward] = made
        return plain
    judge, extractor = build_judge(ctx)
    model = None
    baseline: Mapping[str, float] = {}
    if cfg.source == "model" or ctx.is_done("reward_model"):
        baseline = ctx.done_facts("reward_model")["baseline"]
    if cfg.source == "model":
        if not isinstance(made, RewardTrainer):
            raise UserError(f"reward.source: {cfg.name} has no models to train; set it to judge or none")
        folder, device = reward_model_folder(ctx), str(ctx.accelerator.device)
        model = made.load(ctx.adapter, folder, device=device, dtype=ctx.cfg.model.torch_dtype)
    return made.reward(cfg, model=model, judge=judge, extractor=extractor, baseline=baseline)


def _made(cfg: RewardConfig, entry: Any) -> Any:
    known = list(inspect.signature(entry).parameters)
    for name in cfg.options:
        if name not in known:
            takes = ", ".join(known) or "none"
            raise UserError(
                f"reward.options: {cfg.name} takes no {name!r}{nearest(name, known)}, only {takes}"
            )
    try:
        return entry(**cfg.options)
    except TypeError as error:
        raise UserError(f"reward.options: {cfg.name}: {error}") from error


def reward_model_folder(ctx: RunContext) -> Path:
    """Where the trained reward models lie (this run's, or those it reuses)."""
    return ctx.home("reward_model") / "stages" / "reward_model" / "final"
