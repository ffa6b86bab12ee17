"""Stage ``evaluate``: the start and the trained policy on every task, greedy and sampled."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mmalign import registry
from mmalign.evals.run import evaluate
from mmalign.evals.task import load_task, option_names
from mmalign.pipeline.context import POLICY_STAGES

if TYPE_CHECKING:
    from mmalign.pipeline.context import RunContext
    from mmalign.protocols import Task

__all__ = ["arms", "run", "temperature_name"]

NAME = "evaluate"


def run(ctx: RunContext) -> None:
    """Fill ``evals/<arm>/<task>@<temperature>`` for each arm; finished samples are kept.

    One process does it all.
    """
    if ctx.accelerator.is_main_process:
        with ctx.decoding():
            _evaluate(ctx)
    ctx.mark_done(NAME, {"arms": sorted(arms(ctx))})


def _evaluate(ctx: RunContext) -> None:
    cfg = ctx.cfg.evaluate
    if not cfg.tasks:
        print(f"{NAME}.tasks: none, so nothing is evaluated; mmalign list tasks names them", file=sys.stderr)
        return
    options = {**ctx.cfg.model.options, **cfg.options}
    for arm, source in arms(ctx).items():
        model, digest = ctx.load_model(source), _weights_digest(source)
        for task_name in cfg.tasks:
            for temperature in cfg.temperatures:
                task = _task(ctx, task_name)
                evaluate(
                    ctx.adapter,
                    model,
                    task,
                    ctx.run_dir / "evals" / arm / f"{task_name}@{temperature_name(temperature)}",
                    seed=ctx.cfg.seed,
                    temperature=temperature,
                    batch_size=cfg.batch_size,
                    max_steps=cfg.max_new_tokens,
                    model_info={"id": _shown(ctx, source), "arm": arm, "sha256": digest},
                    options=options,
                    progress=True,
                )


def arms(ctx: RunContext) -> dict[str, str]:
    """``name -> model folder``: the start as ``sft``, then every policy stage that has finished."""
    found = {"sft": ctx.start_policy()} if ctx.cfg.evaluate.include_start else {}
    for stage in POLICY_STAGES:
        final = ctx.stage_dir(stage) / "final"
        if final.is_dir():
            found[stage] = str(final)
    return found


def temperature_name(temperature: float) -> str:
    """``greedy`` for 0, else ``T1``, ``T0.7``."""
    return "greedy" if temperature == 0 else f"T{temperature:g}"


def _task(ctx: RunContext, name: str) -> Task:
    """Build a task with the options of the section that it takes; ``task_options`` must fit."""
    cfg = ctx.cfg.evaluate
    known = option_names(registry.load("tasks", name, key="evaluate.tasks"))
    wanted = {"split": cfg.split, "n": cfg.n, "seed": ctx.cfg.data.seed}
    if "data" in cfg.task_options:  # a file has no split of ours
        wanted.pop("split")
    return load_task(name, {**{key: wanted[key] for key in wanted if key in known}, **cfg.task_options})


def _weights_digest(source: str) -> str | None:
    """SHA-256 over a local folder's weights, so that changed weights are never mistaken for the old ones."""
    files = sorted(Path(source).glob("*.safetensors")) or sorted(Path(source).glob("*/*.safetensors"))
    digest = hashlib.sha256()
    for file in files:
        with open(file, "rb") as handle:
            while block := handle.read(1 << 24):
                digest.update(block)
    return digest.hexdigest() if files else None


def _shown(ctx: RunContext, source: str) -> str:
    path = Path(source)
    return str(path.relative_to(ctx.run_dir)) if path.is_relative_to(ctx.run_dir) else path.name
