"""Stage ``personalise``: a new word for one thing, learnt from a few answers that show it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mmalign.engine.freeze import count_parameters
from mmalign.engine.loop import LoopState
from mmalign.engine.optim import make_optimizer
from mmalign.engine.personalise import personalise_objective
from mmalign.errors import UserError
from mmalign.pipeline.training import offline_trainer, run_training
from mmalign.protocols import Personalises, Samples
from mmalign.rng import generator
from mmalign.types import Row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from mmalign.pipeline.context import RunContext

__all__ = ["run"]

NAME = "personalise"
_CHUNK = 16


def run(ctx: RunContext) -> None:
    """Teach the start policy the word and write ``stages/personalise/final``.

    Raises:
        UserError: when the modality cannot learn a word, the class is not named, or a row has no answer.
    """
    cfg = ctx.cfg.personalise
    if not isinstance(ctx.adapter, Personalises):
        raise UserError(
            f"stage personalise: modality {ctx.adapter.name!r} cannot learn a word; use diffusion"
        )
    if not cfg.class_word.strip():
        raise UserError("personalise.class_word: name the class, in words the model knows")
    rows = [replace(row, prompt=cfg.filled(cfg.prompt), steps=None) for row in ctx.training_rows()]
    lacking = [row.id for row in rows if row.completion is None]
    if lacking:
        raise UserError(f"stage personalise: row {lacking[0]} has no 'completion' that shows the thing")
    model = ctx.load_model(ctx.start_policy())
    prior = _prior(ctx, model)
    model = ctx.adapter.learn_word(model, word=cfg.word, like=cfg.start_word or cfg.class_word)
    optimizer = make_optimizer(
        {"policy": model.parameters()}, {"policy": cfg.learning_rate}, cfg.weight_decay
    )
    state = LoopState({"policy": model}, optimizer)
    loss_fn = personalise_objective(ctx.adapter, model, cfg, prior)
    trainer = offline_trainer(ctx, NAME, cfg, loss_fn, rows, state)
    run_training(ctx, NAME, trainer.step, state, cfg, title="Personalise", show=("loss", "semantic_loss"))
    trainable, total = count_parameters(model)
    if ctx.accelerator.is_main_process:
        ctx.adapter.save(model, ctx.stage_dir(NAME) / "final")
    ctx.mark_done(NAME, {"trainable_parameters": trainable, "parameters": total, "word": cfg.word})


def _prior(ctx: RunContext, model: nn.Module) -> Sequence[Row]:
    """Answers of the start model to the class's prompt; drawn again, the same, when a run resumes."""
    cfg = ctx.cfg.personalise
    if not cfg.n_prior or not cfg.prior_weight:
        return ()
    if not isinstance(ctx.adapter, Samples):
        raise UserError(f"personalise.n_prior: modality {ctx.adapter.name!r} cannot sample; set it to 0")
    row = Row("prior", cfg.filled(cfg.class_prompt))
    drawn: list[Row] = []
    while len(drawn) < cfg.n_prior:
        n = min(_CHUNK, cfg.n_prior - len(drawn))
        rng = generator(ctx.cfg.seed, NAME, "prior", len(drawn))
        drawn += [replace(answer, steps=None) for answer in ctx.adapter.sample(model, [row], n, rng).rows]
    return [replace(answer, id=f"prior-{k}") for k, answer in enumerate(drawn)]
