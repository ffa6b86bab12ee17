"""Stage ``iterate``: RAFT, SuperHF, SPIN, online DPO, Nash-MD, IFT and self-rewarding as settings of one loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mmalign.engine.freeze import count_parameters, freeze
from mmalign.engine.iterate.label import JudgeLabels, Labels, PolicyComparer, RewardLabels
from mmalign.engine.iterate.loop import IterativeTrainer, RewardMemory, Weights
from mmalign.engine.loop import LoopState
from mmalign.engine.optim import make_optimizer
from mmalign.errors import UserError
from mmalign.feedback.pairwise import OrderSwapped
from mmalign.pipeline.judging import build_judge
from mmalign.pipeline.rewarding import build_reward
from mmalign.pipeline.stages.preference import pair_settings
from mmalign.pipeline.training import guard_media, run_training
from mmalign.pipeline.tuning import tuned

if TYPE_CHECKING:
    from torch import nn

    from mmalign.pipeline.context import RunContext

__all__ = ["run"]

NAME = "iterate"


def run(ctx: RunContext) -> None:
    """Run every round; writes ``stages/iterate/final`` and ``stages/iterate/rounds/<k>.jsonl``."""
    cfg = ctx.cfg.iterate
    model = tuned(ctx, ctx.load_model(ctx.start_policy()))
    freeze(model, ctx.cfg.model.freeze)
    trainer = _trainer(ctx, model)
    guard_media(ctx, model, trainer.rows)
    run_training(
        ctx, NAME, trainer.step, trainer.state, cfg, title="ITERATE", show=("loss", "rewards/mean", "kl")
    )
    if ctx.accelerator.is_main_process:
        ctx.adapter.save(model, ctx.stage_dir(NAME) / "final")
    trainable, total = count_parameters(model)
    ctx.mark_done(NAME, {"trainable_parameters": trainable, "parameters": total})


def _trainer(ctx: RunContext, model: nn.Module) -> IterativeTrainer:
    cfg = ctx.cfg.iterate
    weights = Weights.of(model, cfg.reference)
    optimizer = make_optimizer(
        {"policy": model.parameters()}, {"policy": cfg.learning_rate}, cfg.weight_decay
    )
    reward = build_reward(ctx, ctx.cfg.reward) if cfg.label == "reward" else None
    memory = RewardMemory(reward)
    return IterativeTrainer(
        adapter=ctx.adapter,
        model=model,
        weights=weights,
        rows=ctx.training_rows(),
        heldout=ctx.rows("validation", cfg.n_heldout, kind="caption"),
        labels=_labels(ctx, model, reward),
        memory=memory,
        cfg=cfg,
        pair=pair_settings(ctx.cfg.dpo),
        state=LoopState({"policy": model, **weights.modules()}, optimizer, {"reward": memory}),
        folder=ctx.stage_dir(NAME),
        name=NAME,
        seed=ctx.cfg.seed,
        accelerator=ctx.accelerator,
    )


def _labels(ctx: RunContext, model: nn.Module, reward: Any) -> Callable[[], Labels] | None:
    cfg = ctx.cfg.iterate
    if cfg.label == "data":
        return None
    if cfg.label == "reward":
        return lambda: RewardLabels(reward)
    if cfg.judge == "policy":
        comparer: Any = PolicyComparer(ctx.adapter, model, cfg.judge_template, cfg.judge_answers)
    else:
        comparer, _ = build_judge(ctx)
        if not hasattr(comparer, "compare"):
            raise UserError(
                f"feedback.judge: {ctx.cfg.feedback.judge} verifies facts but cannot compare two answers; name a judge "
                "that can (endpoint), or set iterate.judge: policy"
            )
    return lambda: JudgeLabels(OrderSwapped(comparer))
