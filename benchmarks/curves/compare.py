"""All arms in turn; then one JSON, one table and one figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmalign.benchmarks.curves.arms import ARMS, Arm
from mmalign.benchmarks.curves.figure import save_figure
from mmalign.benchmarks.curves.training import Plan, open_setting, run_arm
from mmalign.data.jsonl import read_json, write_json
from mmalign.engine.atomic import write_text
from mmalign.errors import UserError

__all__ = ["compare", "markdown_table"]

_MINUS = "\N{MINUS SIGN}"
_COLUMNS = (
    ("objective", "---"),
    ("settings", "---"),
    ("held-out accuracy [95 %]", "---:"),
    ("margin", "---:"),
    ("chosen", "---:"),
    ("rejected", "---:"),
    ("hallucinated, % [95 %]", "---:"),
    ("attributes covered, %", "---:"),
    ("tokens", "---:"),
)


def compare(
    plan: Plan, folder: Path, arms: Sequence[Arm] = ARMS, log: Callable[[str], None] = print
) -> dict[str, Any]:
    """Train every arm; write ``objectives.json``, ``objectives.md`` and ``objectives.svg`` into ``folder``.

    The same call goes on after a kill: finished arms are read back.

    Raises:
        UserError: when the folder holds arms of another plan.
    """
    known, wanted = folder / "plan.json", asdict(plan)
    if known.is_file() and read_json(known) != wanted:
        raise UserError(f"{folder}: holds arms of another plan (plan.json); give another folder")
    write_json(known, wanted)
    setting = open_setting(plan, folder)
    records = []
    for arm in (None, *arms):
        record = run_arm(setting, arm)
        records.append(record)
        found = record["heldout"]
        log(
            f"{record['name']:<18} accuracy {found['accuracy']['value']:.3f}  margin {found['margin']:+7.2f} nats  "
            f"chosen {found['chosen']:+7.2f}  rejected {found['rejected']:+7.2f}  {record['cpu_seconds']:5.1f} CPU s"
        )
    result = {
        "plan": wanted,
        "arms": records,
        "cpu_seconds": round(sum(r["cpu_seconds"] for r in records), 1),
    }
    write_json(folder / "objectives.json", result)
    write_text(folder / "objectives.md", markdown_table(records))
    save_figure(records, folder / "objectives.svg")
    return result


def markdown_table(records: Sequence[Mapping[str, Any]]) -> str:
    """The arms as a Markdown table; gains in nats per answer over the start model."""
    lines = [[title for title, _ in _COLUMNS], [rule for _, rule in _COLUMNS]]
    for record in records:
        found, said = record["heldout"], record["captions"]
        cells = [f"`{record['name']}`", record["note"]]
        trained = record["curve"]
        cells += [_share(found["accuracy"], 1.0, 2) if trained else "", *_gains(found, bool(trained))]
        if said:
            cells += [
                _share(said["hallucination/overall"], 100.0, 1),
                f"{100 * said['coverage/attribute']['value']:.1f}",
                f"{said['tokens_per_caption']['value']:.1f}",
            ]
        else:
            cells += [""] * 3
        lines.append(cells)
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def _share(metric: Mapping[str, Any], factor: float, digits: int) -> str:
    low, high = metric["ci_low"], metric["ci_high"]
    return f"{factor * metric['value']:.{digits}f} [{factor * low:.{digits}f}, {factor * high:.{digits}f}]"


def _gains(found: Mapping[str, Any], trained: bool) -> list[str]:
    if not trained:
        return [""] * 3
    return [f"{found[name]:+.1f}".replace("-", _MINUS) for name in ("margin", "chosen", "rejected")]
