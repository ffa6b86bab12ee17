"""The configured reward, built through the registry: the core knows no reward by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmalign import registry
from mmalign.pipeline.judging import build_judge

if TYPE_CHECKING:
    from mmalign.config.schema import RewardConfig
    from mmalign.pipeline.context import RunContext
    from mmalign.types import Rollout, StepReward

__all__ = ["build_reward", "reward_model_folder"]


def build_reward(ctx: RunContext, cfg: RewardConfig) -> Callable[[Rollout], StepReward]:
    """Make the reward of ``cfg``: learned models, the judge itself, or terms alone.

    The recipe object of the reward (``registry.load("rewards", cfg.name)``) assembles it, so a
    third-party reward needs no change here.
    """
    recipe: Any = registry.load("rewards", cfg.name)()
    judge, extractor = build_judge(ctx)
    model = None
    baseline: dict[str, float] = {}
    if cfg.source == "model":
        model = recipe.load(
            ctx.adapter,
            reward_model_folder(ctx),
            device=str(ctx.accelerator.device),
            dtype=ctx.cfg.model.torch_dtype,
        )
    if cfg.source == "model" or ctx.is_done("reward_model"):
        baseline = ctx.done_facts("reward_model")["baseline"]
    reward: Callable[[Rollout], StepReward] = recipe.reward(
        cfg, model=model, judge=judge, extractor=extractor, baseline=baseline
    )
    return reward


def reward_model_folder(ctx: RunContext) -> Path:
    """Where the trained reward models lie (this run's, or those it reuses)."""
    return ctx.home("reward_model") / "stages" / "reward_model" / "final"
