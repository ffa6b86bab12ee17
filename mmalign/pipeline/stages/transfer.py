"""Stage ``transfer``: one backbone, one tuner, every task of a suite; resumable task by task."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mmalign import registry
from mmalign.data.jsonl import read_json
from mmalign.engine.atomic import write_json
from mmalign.engine.transfer.task import TaskResult, TaskRun, choose_rate, fit_task
from mmalign.errors import UserError, nearest
from mmalign.pipeline.progress import step_progress
from mmalign.protocols import TransferSuite, TransferTask
from mmalign.stats.groups import averages

if TYPE_CHECKING:
    from mmalign.config.transfer import TransferConfig
    from mmalign.pipeline.context import RunContext

__all__ = ["chosen_tasks", "open_suite", "run", "selection_key", "summary"]

NAME = "transfer"
_SHARED = ("selection_dir", "save_models", "tasks")
"""Keys that change no chosen rate."""


def run(ctx: RunContext) -> None:
    """Fit and score every task; write ``stages/transfer/results.json`` and the run's ``measured.json``.

    Raises:
        UserError: for an unknown suite, task, backbone or tuner, or more than one process.
    """
    if ctx.accelerator.num_processes > 1:
        raise UserError(f"stage {NAME}: runs in one process, started with {ctx.accelerator.num_processes}")
    cfg, folder = ctx.cfg.transfer, ctx.stage_dir(NAME)
    suite = open_suite(cfg)
    tasks = chosen_tasks(suite, cfg)
    results: list[TaskResult] = []
    sink = ctx.sink(NAME)
    sink.rewind(0)
    with step_progress("TRANSFER", len(tasks), show=("accuracy", "mean")) as shown:
        for number, task in enumerate(tasks, start=1):
            file = folder / "tasks" / f"{task.name}.json"
            if not file.is_file():
                found = _one(ctx, suite, task)
                write_json(file, asdict(found))
            results.append(TaskResult(**read_json(file)))
            mean = sum(result.accuracy for result in results) / number
            shown(number, {"accuracy": results[-1].accuracy, "mean": mean})
    for epoch, losses in enumerate(zip(*(result.losses for result in results), strict=True), start=1):
        sink.log(
            {"loss": sum(losses) / len(losses)}, epoch
        )  # the mean over tasks: the curve of report and claims
    sink.close()
    figures = summary(results)
    write_json(folder / "results.json", {**figures, "results": [asdict(result) for result in results]})
    write_json(ctx.run_dir / "measured.json", _flat(figures, results))
    ctx.mark_done(NAME, {"tasks": len(results), **figures["average"]})


def open_suite(cfg: TransferConfig) -> TransferSuite:
    """The configured suite.

    Raises:
        UserError: when it is unknown or does not take its options.
    """
    made = registry.load("transfer", cfg.suite, key="transfer.suite")
    try:
        suite: TransferSuite = made(**cfg.suite_options)
    except TypeError as error:
        raise UserError(f"transfer.suite_options: suite {cfg.suite}: {error}") from None
    return suite


def chosen_tasks(suite: TransferSuite, cfg: TransferConfig) -> tuple[TransferTask, ...]:
    """The configured tasks, in the suite's order.

    Raises:
        UserError: for a task that the suite does not have.
    """
    known = {task.name: task for task in suite.tasks()}
    for name in cfg.tasks:
        if name not in known:
            raise UserError(
                f"transfer.tasks: suite {cfg.suite} has no {name!r}{nearest(name, known)}; "
                f"known: {', '.join(known)}"
            )
    return tuple(task for name, task in known.items() if not cfg.tasks or name in cfg.tasks)


def selection_key(cfg: TransferConfig) -> str:
    """Names everything that the choice of a rate depends on."""
    values = {key: value for key, value in cfg.model_dump(mode="json").items() if key not in _SHARED}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def summary(results: list[TaskResult]) -> dict[str, Any]:
    """Both averages of the scores, the mean of every group, and means of what the tuner costs."""
    found = averages({r.task: r.accuracy for r in results}, {r.task: r.group for r in results})
    n = len(results)
    return {
        "average": {"tasks": found.tasks, "groups": found.groups},
        "groups": dict(found.by_group),
        "cost": {
            "trainable": sum(r.trainable for r in results) / n,
            "head": sum(r.head for r in results) / n,
            "saved_bytes": sum(r.saved_bytes for r in results) / n,
            "cpu_seconds": sum(r.cpu_seconds for r in results) / n,
        },
    }


def _one(ctx: RunContext, suite: TransferSuite, task: TransferTask) -> TaskResult:
    run = TaskRun.of(ctx.cfg.transfer, suite, task)
    rate, tried = _rate(ctx, run)
    save = ctx.stage_dir(NAME) / "models" / task.name if ctx.cfg.transfer.save_models else None
    return fit_task(run, rate, tried, ctx.cfg.seed, save)


def _rate(ctx: RunContext, run: TaskRun) -> tuple[float, dict[str, float]]:
    """The task's rate: the only one, the one kept by an earlier run, or the best on validation."""
    cfg = ctx.cfg.transfer
    if len(cfg.learning_rates) == 1:
        return cfg.learning_rates[0], {}
    kept = None
    if cfg.selection_dir is not None:
        place = ctx.run_dir / cfg.selection_dir / selection_key(cfg)  # an absolute folder stays what it is
        kept = place / f"{run.task.name}.json"
        if kept.is_file():
            found = read_json(kept)
            return float(found["rate"]), dict(found["tried"])
    seed = ctx.cfg.seed if cfg.selection_seed is None else cfg.selection_seed
    rate, tried = choose_rate(run, seed)
    if kept is not None:
        write_json(kept, {"rate": rate, "tried": tried, "seed": seed})
    return rate, tried


def _flat(figures: Mapping[str, Any], results: list[TaskResult]) -> dict[str, float]:
    flat = {f"{part}/{name}": float(value) for part in figures for name, value in figures[part].items()}
    return flat | {f"task/{result.task}": result.accuracy for result in results}
