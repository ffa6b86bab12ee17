"""Stage ``reward_model``: train the reward models on labelled segments and measure them held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from mmalign import registry
from mmalign.engine.atomic import write_json
from mmalign.engine.freeze import freeze
from mmalign.engine.loop import LoopState
from mmalign.engine.optim import make_optimizer
from mmalign.engine.step import Loss
from mmalign.errors import UserError
from mmalign.feedback.collect import read_feedback
from mmalign.pipeline.comparing import compared_rows
from mmalign.pipeline.stages.feedback import PARTS, feedback_file
from mmalign.pipeline.training import guard_media, offline_trainer, run_training
from mmalign.protocols import ComparesAnswers, RewardTrainer

if TYPE_CHECKING:
    from mmalign.pipeline.context import RunContext
    from mmalign.types import Row

__all__ = ["labelled_rows", "run"]

NAME = "reward_model"


def run(ctx: RunContext) -> None:
    """Train on labelled or compared answers, measure on held-out ones, write ``final`` and ``quality.json``."""
    cfg = ctx.cfg.reward_model
    recipe: Any = registry.load("rewards", ctx.cfg.reward.name, key="reward.name")
    if not issubclass(recipe, RewardTrainer):
        raise UserError(
            f"reward.name: {ctx.cfg.reward.name} has no models to train; leave out the stage reward_model"
        )
    recipe = recipe()
    items = _items(ctx, recipe, "train")
    rows = items if not isinstance(recipe, ComparesAnswers) else [row for item in items for row in item.rows]
    model = recipe.create(
        ctx.adapter,
        ctx.reward_model_source(),
        rows[0],
        cfg,
        device=str(ctx.accelerator.device),
        dtype=ctx.cfg.model.torch_dtype,
    )
    if isinstance(recipe, ComparesAnswers):
        recipe.prepare(model, items, cfg)
    freeze(model, ctx.cfg.model.freeze)
    _guard(ctx, model, rows)
    optimizer = make_optimizer({NAME: model.parameters()}, {NAME: cfg.learning_rate}, cfg.weight_decay)
    state = LoopState({NAME: model}, optimizer)

    def loss_fn(batch: Sequence[Any], rng: torch.Generator) -> Loss:
        value, metrics = model.loss(batch)
        return Loss(value, float(len(batch)), metrics)

    trainer = offline_trainer(ctx, NAME, cfg, loss_fn, items, state)
    run_training(ctx, NAME, trainer.step, state, cfg, title="reward models")
    _finish(ctx, recipe, model, items)


def _items(ctx: RunContext, recipe: Any, part: str) -> list[Any]:
    """What the models learn from or are measured on: labelled answers, or rankings of answers."""
    if not isinstance(recipe, ComparesAnswers):
        return labelled_rows(ctx, part)
    cfg = ctx.cfg.reward_model
    rows: Sequence[Row]
    if cfg.ranking.pairs == "feedback":
        rows = labelled_rows(ctx, part)
    elif cfg.ranking.pairs == "judge":
        rows = compared_rows(ctx, part)
    elif part == "train":
        rows = ctx.training_rows("preference", cfg.ranking.n_train)
    else:
        n = ctx.cfg.data.n_validation
        rows = ctx.rows(PARTS[part], min(n, cfg.ranking.n_heldout or n), kind="preference")
    return recipe.rankings(rows, cfg, part=part, seed=ctx.cfg.seed)


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
    cfg = ctx.cfg.reward_model
    if not cfg.blank_media and cfg.ranking.media_scale > 0:
        for trunk in model.trunks.values():
            guard_media(ctx, trunk, rows)


def _finish(ctx: RunContext, recipe: Any, model: Any, items: Sequence[Any]) -> None:
    """Save the models, their held-out quality and what the start policy earns on average."""
    if isinstance(recipe, ComparesAnswers):
        recipe.settle(model, items)
    if ctx.accelerator.is_main_process:
        write_json(
            ctx.stage_dir(NAME) / "quality.json", recipe.measure(model, _items(ctx, recipe, "heldout"))
        )
        model.save(ctx.stage_dir(NAME) / "final")
    ctx.mark_done(NAME, {"rows": len(items), "baseline": recipe.baseline(items)})
