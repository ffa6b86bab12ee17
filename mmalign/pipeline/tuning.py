"""Attach the configured tuner to a freshly loaded model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmalign.errors import UserError
from mmalign.protocols import Tunes

if TYPE_CHECKING:
    from torch import nn

    from mmalign.pipeline.context import RunContext

__all__ = ["tuned"]


def tuned(ctx: RunContext, model: nn.Module) -> nn.Module:
    """Return the model with LoRA attached where ``model.lora_r`` is above 0, else the model itself.

    Raises:
        UserError: when the modality cannot attach a tuner.
    """
    cfg = ctx.cfg.model
    if cfg.lora_r == 0:
        return model
    if not isinstance(ctx.adapter, Tunes):
        raise UserError(f"model.lora_r: modality {ctx.adapter.name!r} has no attach_lora; set lora_r: 0")
    return ctx.adapter.attach_lora(
        model, r=cfg.lora_r, alpha=cfg.lora_alpha, target_modules=cfg.lora_target_modules, seed=ctx.cfg.seed
    )
