"""Stage ``reward_model``: train the reward models on labelled segments and measure them held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from mmalign import registry
from mmalign.engine.atomic import write_json
from mmalign.engine.freeze import freeze
from mmalign.engine.loop import LoopState, run_loop
from mmalign.engine.offline import OfflineTrainer
from mmalign.engine.optim import make_optimizer
from mmalign.engine.step import Loss
from mmalign.errors import UserError
from mmalign.feedback.collect import read_feedback
from mmalign.guards.modality_used import check_modality_used
from mmalign.pipeline.progress import step_progress
from mmalign.pipeline.stages.feedback import PARTS, feedback_file
from mmalign.protocols import RewardTrainer

if TYPE_CHECKING:
    from mmalign.pipeline.context import RunContext
    from mmalign.types import Row

__all__ = ["labelled_rows", "run"]

NAME = "reward_model"


def run(ctx: RunContext) -> None:
    """Train on ``feedback/train.jsonl``, measure on ``feedback/heldout.jsonl``, write ``final``."""
    cfg = ctx.cfg.reward_model
    recipe: Any = registry.load("rewards", ctx.cfg.reward.name)
    if not issubclass(recipe, RewardTrainer):
        raise UserError(
            f"reward.name: {ctx.cfg.reward.name} has no models to train; leave out the stage reward_model"
        )
    recipe = recipe()
    rows = labelled_rows(ctx, "train")
    model = recipe.create(
        ctx.adapter,
        ctx.start_policy(),
        rows[0],
        cfg,
        device=str(ctx.accelerator.device),
        dtype=ctx.cfg.model.torch_dtype,
    )
    freeze(model, ctx.cfg.model.freeze)
    _guard(ctx, model, rows)
    optimizer = make_optimizer({NAME: model.parameters()}, {NAME: cfg.learning_rate}, cfg.weight_decay)
    state = LoopState({NAME: model}, optimizer)

    def loss_fn(batch: Sequence[Row], rng: torch.Generator) -> Loss:
        value, metrics = model.loss(batch)
        return Loss(value, float(len(batch)), metrics)

    trainer = OfflineTrainer(
        loss_fn=loss_fn,
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
    with step_progress("reward models", cfg.max_steps, ("loss",), enabled=main) as on_step:
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
    _finish(ctx, recipe, model, rows)


def labelled_rows(ctx: RunContext, part: str) -> list[Row]:
    """Labelled answers of ``part`` with the media of their prompts.

    Raises:
        UserError: when the file holds no labelled segment.
    """
    cfg = ctx.cfg.feedback
    prompts = ctx.rows(PARTS[part], cfg.n_prompts if part == "train" else cfg.n_heldout)
    media = {row.id: row for row in prompts}
    rows = []
    for row in read_feedback(feedback_file(ctx, part)):
        source = media.get(row.id.rpartition("#")[0] or row.id)
        if source is not None:
            row = replace(row, media=source.media, prompt=source.prompt)
        if row.segments:
            rows.append(row)
    if not rows:
        raise UserError(f"{feedback_file(ctx, part)}: holds no answer with segments to learn from")
    return rows


def _guard(ctx: RunContext, model: Any, rows: Sequence[Row]) -> None:
    guard = ctx.cfg.guard
    if guard.enabled and not ctx.cfg.reward_model.blank_media:
        for trunk in model.trunks.values():
            check_modality_used(
                ctx.adapter,
                trunk,
                rows[: guard.n_rows],
                seed=ctx.cfg.seed,
                allow_unused=guard.allow_unused_media,
            )


def _finish(ctx: RunContext, recipe: Any, model: Any, rows: Sequence[Row]) -> None:
    """Save the models, their held-out quality and the mean labels of the start policy."""
    if ctx.accelerator.is_main_process:
        write_json(ctx.stage_dir(NAME) / "quality.json", recipe.measure(model, labelled_rows(ctx, "heldout")))
        model.save(ctx.stage_dir(NAME) / "final")
    ctx.mark_done(NAME, {"rows": len(rows), "baseline": recipe.baseline(rows)})
