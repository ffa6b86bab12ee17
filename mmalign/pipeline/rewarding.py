"""The configured reward, built through the registry: the core knows no reward by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmalign import registry
from mmalign.errors import UserError, nearest
from mmalign.pipeline.judging import build_judge
from mmalign.protocols import RewardRecipe, RewardTrainer
from mmalign.types import StepReward

if TYPE_CHECKING:
    from mmalign.config.schema import RewardConfig
    from mmalign.pipeline.context import RunContext
    from mmalign.types import Rollout

__all__ = ["build_reward", "reward_model_folder"]


def build_reward(ctx: RunContext, cfg: RewardConfig) -> Callable[[Rollout], StepReward]:
    """Make the reward of ``cfg``: learned models, the judge itself, terms alone, or a plain reward.

    An entry of the group ``rewards`` is either a :class:`~mmalign.protocols.RewardRecipe`, which
    assembles the reward, or a plain :class:`~mmalign.protocols.Reward` class, made with
    ``reward.options``; a third party's needs no change here.
    """
    main = _main_reward(ctx, cfg)
    if not cfg.also:
        return main
    terms = {cfg.name: (main, 1.0)}
    for name, weight in cfg.also.items():
        plain: Any = registry.load("rewards", name, key="reward.also")()
        if name == cfg.name or isinstance(plain, RewardRecipe):
            raise UserError(
                f"reward.also: {name} must be a plain reward other than reward.name; add one of those"
            )
        terms[name] = (plain, weight)
    return _Beside(terms)


def _main_reward(ctx: RunContext, cfg: RewardConfig) -> Callable[[Rollout], StepReward]:
    entry: Any = registry.load("rewards", cfg.name, key="reward.name")
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


class _Beside:
    """The weighted sum of rewards; parts carry their reward's name, one of weight 0 becomes a note ``watch/NAME``."""

    def __init__(self, terms: Mapping[str, tuple[Callable[[Rollout], StepReward], float]]) -> None:
        self._terms = terms

    def __call__(self, rollout: Rollout) -> StepReward:
        total = torch.zeros_like(rollout.logp)
        parts: dict[str, Any] = {}
        notes: dict[str, Any] = {}
        for name, (reward, weight) in self._terms.items():
            made = reward(rollout)
            if weight == 0:
                notes[f"watch/{name}"] = made.per_step.sum(-1)
                continue
            total = total + weight * made.per_step
            for part, values in (made.parts or {"": made.per_step}).items():
                parts[f"{name}/{part}" if part not in ("", name) else name] = weight * values
            notes.update(made.notes)
        return StepReward(total, parts, notes)

    def state_dict(self) -> dict[str, Any]:
        """The state of every reward that has one."""
        kept = {name: getattr(reward, "state_dict", None) for name, (reward, _) in self._terms.items()}
        return {name: state() for name, state in kept.items() if state is not None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        for name, own in state.items():
            self._terms[name][0].load_state_dict(own)  # type: ignore[attr-defined]


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
