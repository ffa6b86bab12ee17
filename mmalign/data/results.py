"""The two files of an evaluation: ``samples.jsonl`` (the evidence) and ``results.json`` (derived).

Schema 1 of a sample: ``schema, task, task_version, parser, index, id, cluster, seed, prompt, output,
parsed, parse_ok, target, scores, steps, finished, media, error?, data, model, generation, hash``.
Schema 1 of the results: ``schema, task, task_version, parser, data, model, generation, seeds, n,
n_parsed, n_error, metrics``.  Readers keep fields they do not know, so a newer file is not harmed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmalign.data.jsonl import clean, iter_jsonl, read_json
from mmalign.errors import UserError

__all__ = [
    "RESULTS_SCHEMA",
    "SAMPLE_SCHEMA",
    "derive",
    "latest",
    "metric",
    "read_results",
    "read_samples",
]

SAMPLE_SCHEMA = "mmalign.sample/1"
RESULTS_SCHEMA = "mmalign.results/1"
METRIC_FIELDS = ("value", "ci_low", "ci_high", "method", "n", "higher_is_better")


def metric(
    value: float | None,
    ci_low: float | None,
    ci_high: float | None,
    method: str,
    n: int,
    higher_is_better: bool | None,
) -> dict[str, Any]:
    """Return one metric record; numbers that do not exist (0/0) are null, never a string."""
    fields = (value, ci_low, ci_high, method, int(n), higher_is_better)
    return {key: clean(item) for key, item in zip(METRIC_FIELDS, fields, strict=True)}


def latest(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one record per id, the last written, in the order of the task's rows."""
    by_id = {str(record["id"]): dict(record) for record in records}
    return sorted(by_id.values(), key=lambda record: (record.get("index", 0), str(record["id"])))


def read_samples(path: Path) -> list[dict[str, Any]]:
    """Return the samples of an evaluation folder (or of a ``samples.jsonl``), one per id.

    Raises:
        UserError: when there is no such file or a line lacks its id.
    """
    path = _inside(path, "samples.jsonl")
    records = list(iter_jsonl(path))
    for number, record in enumerate(records, start=1):
        if "id" not in record:
            raise UserError(
                f'{path}:{number} has no "id"; expected a sample record of schema {SAMPLE_SCHEMA}'
            )
    return latest([_migrate_sample(record) for record in records])


def read_results(path: Path) -> dict[str, Any]:
    """Return the results of an evaluation folder (or of a ``results.json``), older schemas migrated.

    Raises:
        UserError: when the file is missing, is not ours, or a metric holds a string for a number.
    """
    path = _inside(path, "results.json")
    record = read_json(path)
    if not isinstance(record, dict) or "metrics" not in record:
        raise UserError(f'{path} has no "metrics"; expected results of schema {RESULTS_SCHEMA}')
    record = _migrate_results(record)
    for name, entry in record["metrics"].items():
        for field in ("value", "ci_low", "ci_high"):
            if not isinstance(entry.get(field), (int, float, type(None))):
                raise UserError(
                    f"{path}: metric {name}.{field} is {entry[field]!r}; expected a number or null"
                )
    return record


def derive(samples: Sequence[Mapping[str, Any]], metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the content of ``results.json`` from the samples and the task's metrics, and nothing else."""
    if not samples:
        raise UserError("an evaluation without a single sample has no results; check the task's rows")
    head = samples[0]
    return {
        "schema": RESULTS_SCHEMA,
        **{key: head.get(key) for key in ("task", "task_version", "parser", "data", "model", "generation")},
        "seeds": sorted({sample["seed"] for sample in samples if sample.get("seed") is not None}),
        "n": len(samples),
        "n_parsed": sum(bool(sample.get("parse_ok")) for sample in samples),
        "n_error": sum("error" in sample for sample in samples),
        "metrics": {name: dict(entry) for name, entry in metrics.items()},
    }


def _inside(path: Path, name: str) -> Path:
    path = Path(path)
    path = path / name if path.is_dir() else path
    if not path.exists():
        raise UserError(f"{path} does not exist; expected the {name} of an evaluation")
    return path


def _migrate_sample(record: dict[str, Any]) -> dict[str, Any]:
    """Schema 0 (before the schema field existed) had no ``parser`` and named ``output`` ``response``."""
    if "schema" in record:
        return record
    moved = dict(record)
    if "response" in moved and "output" not in moved:
        moved["output"] = moved.pop("response")
    return {"schema": SAMPLE_SCHEMA, "parser": None, "scores": {}, **moved}


def _migrate_results(record: dict[str, Any]) -> dict[str, Any]:
    """Schema 0 held ``task`` as ``{name, version, parser}`` and metrics as bare numbers."""
    moved = dict(record)
    task = moved.get("task")
    if isinstance(task, Mapping):
        moved["task"], moved["task_version"] = task.get("name"), task.get("version")
        moved.setdefault("parser", task.get("parser"))
    moved["metrics"] = {
        name: dict(entry)
        if isinstance(entry, Mapping)
        else metric(entry, None, None, "none", moved.get("n", 0), None)
        for name, entry in moved["metrics"].items()
    }
    moved.setdefault("schema", RESULTS_SCHEMA)
    return moved
