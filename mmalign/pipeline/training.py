"""What every training stage does alike: guard its media, make an offline trainer, run the loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

import torch

from mmalign.engine.loop import LoopState, run_loop
from mmalign.engine.offline import OfflineTrainer
from mmalign.guards.modality_used import check_modality_used
from mmalign.pipeline.progress import step_progress

if TYPE_CHECKING:
    from torch import nn

    from mmalign.config.iterate import IterateConfig
    from mmalign.config.pathwise import PathwiseConfig
    from mmalign.config.personalise import PersonaliseConfig
    from mmalign.config.preference import PairsConfig
    from mmalign.config.schema import PPOConfig, RewardModelConfig, SFTConfig
    from mmalign.config.transitions import TransitionsConfig
    from mmalign.engine.step import Loss
    from mmalign.pipeline.context import RunContext
    from mmalign.types import Row

__all__ = ["guard_media", "offline_trainer", "run_training"]


def guard_media(ctx: RunContext, model: nn.Module, rows: Sequence[Row]) -> None:
    """Run the modality-used guard on the first rows, where the configuration has it on.

    Raises:
        UserError: when the model ignores its media.
    """
    guard = ctx.cfg.guard
    if guard.enabled:
        check_modality_used(
            ctx.adapter, model, rows[: guard.n_rows], seed=ctx.cfg.seed, allow_unused=guard.allow_unused_media
        )


def offline_trainer(
    ctx: RunContext,
    name: str,
    cfg: SFTConfig | RewardModelConfig | PairsConfig | PersonaliseConfig,
    loss_fn: Callable[[Sequence[Row], torch.Generator], Loss],
    rows: Sequence[Row],
    state: LoopState,
) -> OfflineTrainer[Row]:
    """An offline trainer whose global batch is the configured one times the number of processes."""
    return OfflineTrainer(
        loss_fn=loss_fn,
        items=rows,
        state=state,
        name=name,
        seed=ctx.cfg.seed,
        max_steps=cfg.max_steps,
        batch_size=cfg.per_device_train_batch_size * ctx.accelerator.num_processes,
        micro_batch_size=cfg.per_device_train_batch_size,
        warmup_ratio=cfg.warmup_ratio,
        max_grad_norm=cfg.max_grad_norm,
        accelerator=ctx.accelerator,
    )


def run_training(
    ctx: RunContext,
    name: str,
    step: Callable[[int], Mapping[str, float]],
    state: LoopState,
    cfg: SFTConfig
    | RewardModelConfig
    | PairsConfig
    | PPOConfig
    | IterateConfig
    | PathwiseConfig
    | TransitionsConfig
    | PersonaliseConfig,
    *,
    title: str,
    show: tuple[str, ...] = ("loss",),
) -> None:
    """Run the stage's loop in its folder with checkpoints, metrics and progress; resumes by itself."""
    main = ctx.accelerator.is_main_process
    with (
        closing(ctx.sink(name)) as sink,
        step_progress(title, cfg.max_steps, show, enabled=main) as on_step,
    ):
        run_loop(
            step,
            state,
            name=name,
            seed=ctx.cfg.seed,
            max_steps=cfg.max_steps,
            folder=ctx.stage_dir(name),
            save_steps=cfg.save_steps,
            sink=sink,
            is_main=main,
            on_step=on_step,
        )
