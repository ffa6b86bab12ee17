"""Attach the configured tuner to a freshly loaded model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from mmalign.errors import UserError
from mmalign.protocols import Tunes

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mmalign.pipeline.context import RunContext
    from mmalign.types import Row

__all__ = ["tuned"]


def tuned(ctx: RunContext, model: nn.Module) -> nn.Module:
    """Return the model with ``model.tuner`` attached, or LoRA where ``model.lora_r`` is above 0, else itself.

    Raises:
        UserError: when both are asked for, or the modality cannot attach LoRA.
    """
    cfg = ctx.cfg.model
    if cfg.tuner.name is not None:
        if cfg.lora_r:
            raise UserError(
                f"model.tuner.name is {cfg.tuner.name!r} and model.lora_r is {cfg.lora_r}; set one of them"
            )
        return _named(ctx, model)
    if cfg.lora_r == 0:
        return model
    if not isinstance(ctx.adapter, Tunes):
        raise UserError(f"model.lora_r: modality {ctx.adapter.name!r} has no attach_lora; set lora_r: 0")
    return ctx.adapter.attach_lora(
        model, r=cfg.lora_r, alpha=cfg.lora_alpha, target_modules=cfg.lora_target_modules, seed=ctx.cfg.seed
    )


def _named(ctx: RunContext, model: nn.Module) -> nn.Module:
    from mmalign.tuners import attach

    cfg = ctx.cfg.model.tuner
    assert cfg.name is not None
    return attach(
        model,
        cfg.name,
        cfg.options,
        scope=cfg.scope,
        seed=ctx.cfg.seed,
        probe=lambda probed: _losses(ctx, probed),
        modules_to_save=cfg.modules_to_save,
    )


def _losses(ctx: RunContext, model: nn.Module) -> Iterator[Tensor]:
    """Negative log-likelihood of the training answers (of pairs, of the chosen ones), minibatch by minibatch."""
    from mmalign.objectives.sft import nll_loss

    rows, size = ctx.training_rows(), ctx.cfg.model.tuner.probe_batch_size
    for start in range(0, len(rows), size):
        answered = [_answered(rows[k]) for k in range(start, min(start + size, len(rows)))]
        scored = ctx.adapter.logp(model, ctx.adapter.collate(answered))
        yield nll_loss(scored.values, scored.mask)


def _answered(row: Row) -> Row:
    if row.completion is not None or row.steps is not None:
        return row
    if row.chosen is None:
        raise UserError(f"model.tuner: looks at training answers, and row {row.id} has none")
    return replace(row, completion=row.chosen, media=(*row.media, *row.chosen_media))
