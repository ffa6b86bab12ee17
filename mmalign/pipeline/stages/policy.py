"""Stages ``ppo`` and ``grpo``: the policy is improved against a dense reward."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from mmalign.engine.critic import Critic
from mmalign.engine.freeze import count_parameters, freeze
from mmalign.engine.loop import LoopState
from mmalign.engine.online import KLCoefficient, OnlineTrainer
from mmalign.engine.optim import make_optimizer
from mmalign.engine.reference import Reference
from mmalign.errors import UserError
from mmalign.pipeline.constraining import build_constraint
from mmalign.pipeline.rewarding import build_reward
from mmalign.pipeline.training import guard_media, run_training
from mmalign.pipeline.tuning import tuned
from mmalign.rng import derive_seed

if TYPE_CHECKING:
    from torch import nn

    from mmalign.config.schema import PPOConfig
    from mmalign.pipeline.context import RunContext
    from mmalign.types import Row

__all__ = ["run_grpo", "run_ppo"]


def run_ppo(ctx: RunContext) -> None:
    """PPO with a critic; writes ``stages/ppo/final``."""
    _run(ctx, "ppo", ctx.cfg.ppo)


def run_grpo(ctx: RunContext) -> None:
    """GRPO or RLOO; writes ``stages/grpo/final``."""
    _run(ctx, "grpo", ctx.cfg.grpo)


def _run(ctx: RunContext, name: str, cfg: PPOConfig) -> None:
    if cfg.advantage == "gae" and 0 < cfg.max_steps <= cfg.critic_warmup_steps:
        print(
            f"{name}.critic_warmup_steps: in all {cfg.max_steps} steps only the critic learns, so the policy stays as "
            f"it is; set it below {name}.max_steps",
            file=sys.stderr,
        )
    rows = ctx.training_rows()
    model = tuned(ctx, ctx.load_model(ctx.start_policy()))
    freeze(model, ctx.cfg.model.freeze)
    guard_media(ctx, model, rows)
    trainer = _trainer(ctx, name, cfg, model, rows)
    show = ("rewards/mean", "kl") if trainer.constraint is None else ("rewards/mean", "cost/mean", "lambda")
    run_training(ctx, name, trainer.step, trainer.state, cfg, title=name.upper(), show=show)
    if ctx.accelerator.is_main_process:
        ctx.adapter.save(model, ctx.stage_dir(name) / "final")
    trainable, total = count_parameters(model)
    ctx.mark_done(name, {"trainable_parameters": trainable, "parameters": total})


def _trainer(
    ctx: RunContext, name: str, cfg: PPOConfig, model: nn.Module, rows: Sequence[Row]
) -> OnlineTrainer:
    reference = Reference(ctx.adapter, model, cfg.reference)
    modules: dict[str, nn.Module] = {"policy": model}
    groups = {"policy": model.parameters()}
    rates = {"policy": cfg.learning_rate}
    critic, constraint = None, build_constraint(ctx)
    if cfg.advantage == "gae":
        width, device = _hidden_size(ctx, model, rows[0]), ctx.accelerator.device
        critic = Critic(width, seed=ctx.cfg.seed).to(device)
        modules["critic"] = critic
        if constraint is not None:
            constraint.critic = Critic(width, seed=derive_seed(ctx.cfg.seed, "cost")).to(device)
            modules["cost_critic"] = constraint.critic
    for part in modules.keys() - {"policy"}:
        groups[part] = modules[part].parameters()
        rates[part] = cfg.critic_learning_rate
    optimizer = make_optimizer(groups, rates)
    kl = KLCoefficient(cfg.kl_coef)
    reward = build_reward(ctx, ctx.cfg.reward)
    counters: dict[str, Any] = {"kl": kl}
    if constraint is not None:
        counters["lambda"] = constraint.multiplier
    for name_, made in (("reward", reward), ("cost", constraint and constraint.cost)):
        if hasattr(made, "state_dict"):
            counters[name_] = made
    return OnlineTrainer(
        adapter=ctx.adapter,
        model=model,
        reference=reference,
        reward=reward,
        critic=critic,
        rows=rows,
        cfg=cfg,
        state=LoopState(modules, optimizer, counters),
        kl=kl,
        name=name,
        seed=ctx.cfg.seed,
        accelerator=ctx.accelerator,
        constraint=constraint,
    )


@torch.no_grad()
def _hidden_size(ctx: RunContext, model: nn.Module, row: Row) -> int:
    from mmalign.guards.modality_used import answered

    batch = ctx.adapter.collate(answered(ctx.adapter, model, [row], ctx.cfg.seed))
    hidden = ctx.adapter.logp(model, batch, hidden=True).hidden
    if hidden is None:
        raise UserError(
            f"advantage: gae needs a critic, and modality {ctx.adapter.name!r} gives no hidden states for one; "
            "use advantage: grpo or rloo"
        )
    return int(hidden.shape[-1])
