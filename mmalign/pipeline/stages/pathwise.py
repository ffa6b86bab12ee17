"""Stage ``pathwise``: a differentiable reward is followed through the sampler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmalign.engine.freeze import count_parameters, freeze
from mmalign.engine.loop import LoopState
from mmalign.engine.optim import make_optimizer
from mmalign.engine.pathwise import PathwiseTrainer
from mmalign.engine.reference import Reference
from mmalign.errors import UserError
from mmalign.pipeline.rewarding import build_reward
from mmalign.pipeline.training import guard_media, run_training
from mmalign.pipeline.tuning import tuned
from mmalign.protocols import DifferentiableReward, Pathwise

if TYPE_CHECKING:
    from mmalign.pipeline.context import RunContext

__all__ = ["run"]

NAME = "pathwise"


def run(ctx: RunContext) -> None:
    """Train the start policy by ReFL, DRaFT or AlignProp and write ``stages/pathwise/final``.

    Raises:
        UserError: when the modality cannot be sampled with gradient, the reward cannot be differentiated, or
            rows lack the answers that ``sft_coef`` needs.
    """
    cfg = ctx.cfg.pathwise
    if not isinstance(ctx.adapter, Pathwise):
        raise UserError(
            f"stage pathwise: modality {ctx.adapter.name!r} has no sample_differentiable; use ppo or grpo"
        )
    reward = build_reward(ctx, ctx.cfg.reward)
    if not isinstance(reward, DifferentiableReward):
        raise UserError(
            f"stage pathwise: reward {ctx.cfg.reward.name!r} has no score(rows, outputs), so it has no gradient; "
            "use one that has, or stage grpo"
        )
    rows = ctx.training_rows()
    lacking = [row.id for row in rows if row.completion is None] if cfg.sft_coef else []
    if lacking:
        raise UserError(f"pathwise.sft_coef: row {lacking[0]} has no 'completion' to learn from; set it to 0")
    model = tuned(ctx, ctx.load_model(ctx.start_policy()))
    freeze(model, ctx.cfg.model.freeze)
    guard_media(ctx, model, rows)
    optimizer = make_optimizer(
        {"policy": model.parameters()}, {"policy": cfg.learning_rate}, cfg.weight_decay
    )
    state = LoopState({"policy": model}, optimizer)
    trainer = PathwiseTrainer(
        adapter=ctx.adapter,
        model=model,
        reference=Reference(ctx.adapter, model, cfg.reference) if cfg.kl_coef else None,
        reward=reward,
        rows=rows,
        cfg=cfg,
        state=state,
        name=NAME,
        seed=ctx.cfg.seed,
        accelerator=ctx.accelerator,
    )
    run_training(ctx, NAME, trainer.step, state, cfg, title="Pathwise", show=("rewards/mean", "loss"))
    if ctx.accelerator.is_main_process:
        ctx.adapter.save(model, ctx.stage_dir(NAME) / "final")
    trainable, total = count_parameters(model)
    ctx.mark_done(NAME, {"trainable_parameters": trainable, "parameters": total})
