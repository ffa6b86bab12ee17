"""Measuring reward models that learned from noisy labels against clean ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmalign.pipeline.context import RunContext

__all__ = ["clean_quality"]

FILE = "clean_quality.json"


def clean_quality(clean_arm: str) -> Callable[[RunContext], None]:
    """A job: measure the run's reward models on the held-out labels of ``clean_arm`` in the same cell.

    The run's own held-out labels are as noisy as its training labels, so they would make even a
    perfect model look wrong.
    """

    def job(ctx: RunContext) -> None:
        from dataclasses import replace

        from mmalign import registry
        from mmalign.data.jsonl import write_json
        from mmalign.pipeline.rewarding import reward_model_folder
        from mmalign.pipeline.stages.reward_model import labelled_rows

        recipe = registry.load("rewards", ctx.cfg.reward.name)()
        device, dtype = str(ctx.accelerator.device), ctx.cfg.model.torch_dtype
        model = recipe.load(ctx.adapter, reward_model_folder(ctx), device=device, dtype=dtype)
        clean = replace(ctx, run_dir=ctx.run_dir.parent / clean_arm)
        write_json(ctx.run_dir / FILE, recipe.measure(model, labelled_rows(clean, "heldout")))

    return job
