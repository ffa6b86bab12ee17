"""Stage ``sft``: supervised fine-tuning of the start model on rows with answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmalign.engine.freeze import count_parameters, freeze
from mmalign.engine.loop import LoopState
from mmalign.engine.offline import sft_objective
from mmalign.engine.optim import make_optimizer
from mmalign.errors import UserError
from mmalign.pipeline.training import guard_media, offline_trainer, run_training
from mmalign.pipeline.tuning import tuned

if TYPE_CHECKING:
    from mmalign.pipeline.context import RunContext

__all__ = ["run"]

NAME = "sft"


def run(ctx: RunContext) -> None:
    """Fine-tune the base model and write it to ``stages/sft/final``."""
    cfg = ctx.cfg.sft
    if cfg.max_steps == 0:
        ctx.mark_done(NAME, {"skipped": True, "model": ctx.base_model()})
        return
    rows = ctx.training_rows(most=ctx.cfg.sft.n_train)
    lacking = [row.id for row in rows if row.completion is None]
    if lacking:
        raise UserError(
            f"stage sft: row {lacking[0]} has no 'completion' to learn from ({len(lacking)} such rows)"
        )
    model = tuned(ctx, ctx.load_model(ctx.base_model()))
    freeze(model, ctx.cfg.model.freeze)
    guard_media(ctx, model, rows)
    optimizer = make_optimizer(
        {"policy": model.parameters()}, {"policy": cfg.learning_rate}, cfg.weight_decay
    )
    state = LoopState({"policy": model}, optimizer)
    trainer = offline_trainer(ctx, NAME, cfg, sft_objective(ctx.adapter, model), rows, state)
    run_training(ctx, NAME, trainer.step, state, cfg, title="SFT")
    if ctx.accelerator.is_main_process:
        ctx.adapter.save(model, ctx.stage_dir(NAME) / "final")
    trainable, total = count_parameters(model)
    ctx.mark_done(NAME, {"trainable_parameters": trainable, "parameters": total})
