"""Stage ``sft``: supervised fine-tuning of the start model on rows with answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmalign.engine.freeze import count_parameters, freeze
from mmalign.engine.loop import LoopState, run_loop
from mmalign.engine.offline import OfflineTrainer, sft_objective
from mmalign.engine.optim import make_optimizer
from mmalign.errors import UserError
from mmalign.guards.modality_used import check_modality_used
from mmalign.pipeline.progress import step_progress
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
    rows = ctx.rows("train", ctx.cfg.data.n_train, kind="caption")
    lacking = [row.id for row in rows if row.completion is None]
    if lacking:
        raise UserError(
            f"stage sft: row {lacking[0]} has no 'completion' to learn from ({len(lacking)} such rows)"
        )
    model = tuned(ctx, ctx.load_model(ctx.base_model()))
    freeze(model, ctx.cfg.model.freeze)
    guard = ctx.cfg.guard
    if guard.enabled:
        check_modality_used(
            ctx.adapter, model, rows[: guard.n_rows], seed=ctx.cfg.seed, allow_unused=guard.allow_unused_media
        )
    optimizer = make_optimizer(
        {"policy": model.parameters()}, {"policy": cfg.learning_rate}, cfg.weight_decay
    )
    state = LoopState({"policy": model}, optimizer)
    trainer = OfflineTrainer(
        loss_fn=sft_objective(ctx.adapter, model),
        items=rows,
        state=state,
        name=NAME,
        seed=ctx.cfg.seed,
        max_steps=cfg.max_steps,
        batch_size=cfg.per_device_train_batch_size * ctx.accelerator.num_processes,
        micro_batch_size=cfg.per_device_train_batch_size,
        warmup_ratio=cfg.warmup_ratio,
        max_grad_norm=cfg.max_grad_norm,
        accelerator=ctx.accelerator,
    )
    main = ctx.accelerator.is_main_process
    with step_progress("SFT", cfg.max_steps, ("loss",), enabled=main) as on_step:
        run_loop(
            trainer.step,
            state,
            name=NAME,
            seed=ctx.cfg.seed,
            max_steps=cfg.max_steps,
            folder=ctx.stage_dir(NAME),
            save_steps=cfg.save_steps,
            sink=ctx.sink(NAME),
            is_main=main,
            on_step=on_step,
        )
    if main:
        ctx.adapter.save(model, ctx.stage_dir(NAME) / "final")
    trainable, total = count_parameters(model)
    ctx.mark_done(NAME, {"trainable_parameters": trainable, "parameters": total})
