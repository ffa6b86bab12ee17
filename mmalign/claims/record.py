"""Verdicts on disk and on the screen: ``claim.json``, the printed tables, the list of claims."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from mmalign.claims.definition import Claim, Statement, Verdict
from mmalign.claims.results import TRAINING, Results, training_stage
from mmalign.claims.rules import over_seeds, undecided
from mmalign.data.jsonl import clean, read_json, write_json
from mmalign.errors import UserError

__all__ = [
    "SCHEMA",
    "arm_summary",
    "claim_record",
    "judge",
    "last_verdict",
    "must_hold",
    "print_record",
    "write_record",
]

SCHEMA = "mmalign.claim/1"


def judge(statement: Statement, results: Results) -> Verdict:
    """The statement's verdict; numbers that are missing make it inconclusive, and say so."""
    try:
        return statement.check(results)
    except UserError as error:
        return undecided(str(error))


def arm_summary(results: Results) -> dict[str, dict[str, dict[str, Any]]]:
    """``arm -> metric -> {mean, ci_low, ci_high, per_seed, per_start}``; starts averaged within a seed."""
    summary: dict[str, dict[str, dict[str, Any]]] = {}
    for arm in results.arms():
        cells = results.cells(arm.name)
        known = [results.metrics(arm.name, cell) for cell in cells]
        names = [n for n in (known[0] if known else {}) if all(_number(found.get(n)) for found in known)]
        summary[arm.name] = {name: _entry(results.per_start(arm.name, name)) for name in names}
    return summary


def curves(results: Results) -> dict[str, dict[str, list[float]]]:
    """``arm -> training metric -> mean over cells per step``, where every cell has the same steps."""
    found: dict[str, dict[str, list[float]]] = {}
    for arm in results.arms():
        stage = training_stage(arm)
        for metric in (*TRAINING, *results.claim.curves) if stage else ():
            lines = [results.curve(arm.name, str(stage), metric, cell) for cell in results.cells(arm.name)]
            if lines and lines[0] and len({len(line) for line in lines}) == 1:
                means = [math.fsum(step) / len(step) for step in zip(*lines, strict=True)]
                found.setdefault(arm.name, {})[metric] = [round(mean, 5) for mean in means]
    return found


def claim_record(results: Results, *, quick: bool, command: str, equal: Sequence[str]) -> dict[str, Any]:
    """The content of ``claim.json``."""
    claim = results.claim
    verdicts = [(statement, judge(statement, results)) for statement in claim.statements]
    record = {
        "schema": SCHEMA,
        "claim": claim.name,
        "title": claim.title,
        "source": claim.source,
        "statements": [
            {"id": s.id, "text": s.text, "must_hold": s.must_hold, **_renamed(verdict)}
            for s, verdict in verdicts
        ],
        "arms": arm_summary(results),
        "curves": curves(results),
        "held_equal": list(equal),
        "starts": list(claim.starts),
        "seeds": list(results.seeds),
        "quick": quick,
        "command": command,
    }
    cleaned: dict[str, Any] = clean(record)
    return cleaned


def must_hold(record: Mapping[str, Any]) -> bool:
    """Whether every statement that must hold does."""
    return all(s["verdict"] == "holds" for s in record["statements"] if s["must_hold"])


def write_record(record: Mapping[str, Any], root: Path) -> Path:
    """Write ``claim.json`` atomically and return its path."""
    file = root / "claim.json"
    write_json(file, record)
    return file


def print_record(record: Mapping[str, Any], claim: Claim, console: Console) -> None:
    """Print the arms' table and the verdicts."""
    arms = Table(title=f"{claim.title}: mean over {len(record['seeds'])} seeds, [95 % t interval]")
    arms.add_column("arm", no_wrap=True)
    for title in claim.tables:
        arms.add_column(title, justify="right")
    for name, metrics in record["arms"].items():
        if metrics:
            arms.add_row(name, *(_cell(metrics.get(metric)) for metric in claim.tables.values()))
    console.print(arms)
    colours = {"holds": "green", "fails": "red", "inconclusive": "yellow"}
    for s in record["statements"]:
        colour, must = colours[s["verdict"]], "must hold" if s["must_hold"] else "report only"
        console.print(
            f"[bold]{s['id']:<4}[/][{colour}]{s['verdict']:<13}[/]{escape(s['text'])} [dim]({must})[/]"
        )
        for line in str(s["measured"]).split("; "):
            console.print(Padding(escape(line), (0, 0, 0, 17)), highlight=False, style="dim")


def last_verdict(claim: Claim, runs: Path) -> tuple[dict[str, Any], str] | None:
    """The newest record of a claim and where it is from: this machine's runs, else the recorded one."""
    local = [
        runs / "claims" / claim.name / "claim.json",
        runs / "claims" / f"{claim.name}-quick" / "claim.json",
    ]
    for file in local:
        if file.is_file():
            return read_json(file), str(file.parent)
    if claim.recorded is not None and claim.recorded.is_file():
        return read_json(claim.recorded), "recorded with the release"
    return None


def _renamed(verdict: Verdict) -> dict[str, Any]:
    fields = verdict.as_dict()
    fields["measured"] = fields.pop("text")
    return fields


def _entry(values: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    from mmalign.claims.rules import seed_means

    interval = over_seeds(values)
    return {
        "mean": interval.value,
        "ci_low": interval.ci_low,
        "ci_high": interval.ci_high,
        "per_seed": seed_means(values),
        "per_start": {start: list(column) for start, column in values.items()},
    }


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _cell(entry: Mapping[str, Any] | None) -> str:
    if entry is None or entry["mean"] is None:
        return "-"
    if entry["ci_low"] is None:
        return f"{entry['mean']:.3f}"
    return f"{entry['mean']:.3f}\n\\[{entry['ci_low']:.3f}, {entry['ci_high']:.3f}]"
