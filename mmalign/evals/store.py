"""Results from samples: derive them again, or read the stored answers again with another parser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmalign.data.jsonl import JsonlWriter, write_json
from mmalign.data.results import derive, read_results, read_samples
from mmalign.errors import UserError
from mmalign.protocols import Task
from mmalign.types import Row

__all__ = ["rebuild", "rescore", "write_results"]


def write_results(folder: Path, samples: Sequence[Mapping[str, Any]], task: Task) -> dict[str, Any]:
    """Derive the results of ``samples``, write ``results.json`` and return it as it reads back."""
    write_json(folder / "results.json", derive(samples, task.metrics(samples)))
    return read_results(folder)


def rebuild(path: Path, task: Task | None = None) -> dict[str, Any]:
    """Compute ``results.json`` again from ``samples.jsonl`` alone.

    Args:
        path: the evaluation's folder (or its ``samples.jsonl``).
        task: the task whose metrics to use; by default the one named in the samples.

    Raises:
        UserError: when there are no samples, or their task is not installed.
    """
    samples = read_samples(path)
    if not samples:
        raise UserError(f"{path} holds no samples; evaluate first")
    if task is None:
        from mmalign.evals.task import load_task

        task = load_task(samples[0]["task"])
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    return write_results(folder, samples, task)


def rescore(source: Path, task: Task, out_dir: Path) -> dict[str, Any]:
    """Read the stored answers of ``source`` again with ``task`` (say, another parser) into ``out_dir``.

    Nothing is generated.  Rows are found by id, so the task must be built on the same data.

    Raises:
        UserError: when an id of the samples is not a row of the task, or ``out_dir`` is in use.
    """
    out_dir = Path(out_dir)
    if (out_dir / "samples.jsonl").exists():
        raise UserError(f"{out_dir} already holds samples; give a fresh folder")
    rows = {row.id: row for row in task.rows()}
    samples = []
    with JsonlWriter(out_dir / "samples.jsonl") as writer:
        for sample in read_samples(source):
            row = rows.get(sample["id"])
            if row is None:
                raise UserError(
                    f'{source}: sample "{sample["id"]}" is no row of task {task.name}; use the same data'
                )
            samples.append({**sample, **scored(task, row, sample["output"]), **identity(task)})
            writer.write(samples[-1])
    return write_results(out_dir, read_samples(out_dir), task)


def identity(task: Task) -> dict[str, Any]:
    """Return what names a task in every sample: its name, version and parser."""
    return {"task": task.name, "task_version": task.version, "parser": getattr(task, "parser_label", None)}


def scored(task: Task, row: Row, output: Any) -> dict[str, Any]:
    """Return ``parsed``, ``parse_ok`` and ``scores`` of one answer."""
    result = task.score(row, output)
    return {
        "parsed": result.get("parsed"),
        "parse_ok": bool(result.get("parse_ok")),
        "scores": dict(result.get("scores") or {}),
    }
