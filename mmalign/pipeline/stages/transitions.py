"""Stage ``offline_rl``: Cal-QL, CQL, SAC, IQL or cloning on recorded transitions, then on collected ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmalign.engine.freeze import count_parameters, freeze
from mmalign.engine.loop import LoopState
from mmalign.engine.transitions.collect import EpisodeCollector
from mmalign.engine.transitions.store import Collected, TransitionStore
from mmalign.engine.transitions.trainer import TransitionTrainer
from mmalign.engine.transitions.trajectory import Trajectory, best, rewarded
from mmalign.engine.transitions.update import Learner
from mmalign.errors import UserError
from mmalign.pipeline.rewarding import build_reward
from mmalign.pipeline.training import run_training
from mmalign.protocols import Transitions
from mmalign.types import Rollout

if TYPE_CHECKING:
    from torch import nn

    from mmalign.pipeline.context import RunContext
    from mmalign.types import Row

__all__ = ["answered_rollout", "run"]

NAME = "offline_rl"


def run(ctx: RunContext) -> None:
    """Train the start policy with critics and write ``stages/offline_rl/final``.

    Raises:
        UserError: when the modality cannot be cut into transitions, or several processes are asked for.
    """
    cfg = ctx.cfg.offline_rl
    if not isinstance(ctx.adapter, Transitions):
        raise UserError(
            f"stage {NAME}: modality {ctx.adapter.name!r} has no transitions; use sft, dpo, ppo or grpo"
        )
    if ctx.accelerator.num_processes > 1:
        raise UserError(f"stage {NAME}: runs in one process, started with {ctx.accelerator.num_processes}")
    model = ctx.load_model(ctx.start_policy())
    freeze(model, ctx.cfg.model.freeze)
    trainer = _trainer(ctx, model)
    run_training(
        ctx,
        NAME,
        trainer.step,
        trainer.state,
        cfg,
        title="OFFLINE RL",
        show=("loss", "q/data", "collect/return"),
    )
    ctx.adapter.save(model, ctx.stage_dir(NAME) / "final")
    trainer.collected.clear()
    trainable, total = count_parameters(model)
    facts = {"trainable_parameters": trainable, "parameters": total, "transitions": len(trainer.recorded)}
    ctx.mark_done(NAME, facts)


def _trainer(ctx: RunContext, model: nn.Module) -> TransitionTrainer:
    cfg, adapter = ctx.cfg.offline_rl, ctx.adapter
    assert isinstance(adapter, Transitions)
    reward = build_reward(ctx, ctx.cfg.reward) if cfg.rewards == "configured" else None
    rows = ctx.rows("train", cfg.n_offline, kind=cfg.offline_rows)
    trajectories: Sequence[Trajectory] = adapter.trajectories(rows)
    if reward is not None:
        trajectories = rewarded(trajectories, reward(answered_rollout(rows, [len(t) for t in trajectories])))
    stores = [
        TransitionStore(
            cfg.gamma, scale=cfg.reward_scale, bias=cfg.reward_bias, tail=cfg.tail, capacity=capacity
        )
        for capacity in (None, cfg.capacity)
    ]
    stores[0].add(best(trajectories, cfg.keep))
    learner = Learner.of(adapter, model, cfg, stores[0].everything(), ctx.cfg.seed)
    collected = Collected(stores[1], ctx.stage_dir(NAME) / "collected")
    starts = ctx.rows("train", cfg.n_offline, kind=cfg.start_rows) if cfg.online_steps else []
    counters: dict[str, object] = {"collected": collected}
    collector = EpisodeCollector(adapter, model, starts, cfg, reward)
    counters["collector"] = collector
    state = LoopState(learner.modules(), learner.optimizer(), counters)  # type: ignore[arg-type]
    return TransitionTrainer(learner, stores[0], collected, collector, state, cfg, NAME, ctx.cfg.seed)


def answered_rollout(rows: Sequence[Row], lengths: Sequence[int]) -> Rollout:
    """Recorded rows as a rollout that a reward can score; nobody sampled them, so their log-probabilities are 0."""
    import torch

    steps = torch.arange(max(lengths))
    mask = steps[None] < torch.tensor(lengths)[:, None]
    return Rollout(
        tuple(rows),
        torch.zeros(mask.shape),
        mask,
        torch.ones(len(rows), dtype=torch.bool),
        torch.arange(len(rows)),
    )
