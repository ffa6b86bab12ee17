"""The before/after table: values with intervals, n, and the paired difference on the same samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmalign.report.collect import Evaluation, Run, collect
from mmalign.stats.composite import Composite

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "Line",
    "Section",
    "composites_of",
    "headline_sections",
    "headline_table",
    "number",
    "pretty",
    "span",
]

Metric = Mapping[str, Any]

VERDICTS = {
    "better": "\u25b2 better",
    "worse": "\u25bc worse",
    "changed": "\u25c6 changed",
    "same": "\u2013 unclear",
}
"""Signs and words, so that nothing rests on colour."""


@dataclass(frozen=True, slots=True)
class Line:
    """One metric before and after; ``difference`` is after minus before, ``verdict`` a key of VERDICTS."""

    metric: str
    label: str
    before: Metric
    after: Metric | None
    difference: Metric | None
    verdict: str
    percent: bool
    top: bool


@dataclass(frozen=True, slots=True)
class Section:
    """The lines of one task in one setting."""

    name: str
    task: str
    setting: str
    before: Evaluation
    after: Evaluation | None
    lines: tuple[Line, ...]

    @property
    def n(self) -> int:
        """Samples behind the section."""
        return int((self.after or self.before).results.get("n") or 0)

    @property
    def top_lines(self) -> list[Line]:
        """The lines the task calls its headline, or the first six."""
        return [line for line in self.lines if line.top] or list(self.lines[:6])


def composites_of(task_name: str) -> tuple[Mapping[str, Composite], Sequence[str]]:
    """Return a task's composites and headline names; empty where the task is not installed here."""
    from mmalign import registry

    try:
        task = registry.load("tasks", task_name)()
    except Exception:  # a report must be possible without the plug-in that made the samples
        return {}, ()
    return getattr(task, "composites", {}), getattr(task, "headline", ())


def headline_sections(run: Run) -> list[Section]:
    """Return every task and setting of a run with before, after and the paired difference."""
    sections = []
    for name, arms in run.evals.items():
        first = arms.get(str(run.before)) or next(iter(arms.values()))
        last = arms.get(str(run.after)) if run.after else None
        last = None if last is first else last
        sections.append(compare(name, first, last))
    return sections


def compare(name: str, before: Evaluation, after: Evaluation | None) -> Section:
    """Return the section of two evaluations of one task (or of one alone)."""
    composites, top = composites_of(before.task)
    lines = []
    for metric, entry in before.results["metrics"].items():
        other = after.results["metrics"].get(metric) if after else None
        difference = None
        if after is not None and metric in composites:
            paired = composites[metric].paired(before.samples, after.samples)
            difference = {**paired.as_dict(), "higher_is_better": entry.get("higher_is_better")}
        lines.append(_line(metric, entry, other, difference, metric in top))
    lines.sort(key=lambda line: list(top).index(line.metric) if line.metric in top else len(top))
    return Section(name, before.task, before.setting, before, after, tuple(lines))


def _line(metric: str, before: Metric, after: Metric | None, difference: Metric | None, top: bool) -> Line:
    numbers = [e.get(k) for e in (before, after or {}) for k in ("value", "ci_low", "ci_high")]
    known = [value for value in numbers if value is not None]
    percent = bool(known) and "_per_" not in metric and all(0 <= value <= 1 for value in known)
    verdict = _verdict(difference, before.get("higher_is_better"))
    return Line(metric, pretty(metric), before, after, difference, verdict, percent, top)


def _verdict(difference: Metric | None, higher_is_better: bool | None) -> str:
    if difference is None or difference.get("ci_low") is None:
        return "same"
    low, high = difference["ci_low"], difference["ci_high"]
    if low <= 0 <= high:
        return "same"
    if higher_is_better is None:
        return "changed"
    return "better" if (low > 0) == higher_is_better else "worse"


def pretty(metric: str) -> str:
    """Return a metric's name for people: ``hallucination/object`` becomes ``hallucination, object``."""
    if metric.startswith("hallucination/"):
        kind = metric.partition("/")[2]
        return "Hallucinated sentences" if kind == "overall" else f"Hallucinated, {kind}"
    known = {
        "chair_i": "CHAIR\u1d62",
        "chair_s": "CHAIR\u209b",
        "f1": "F1",
        "fad": "FAD",
        "mos": "MOS",
        "level_db": "level, dB",
        "fact_f1/macro": "fact F1, macro average",
    }
    text = known.get(metric) or metric.replace("_f1", " F1").replace("/", ", ").replace("_", " ")
    return text[:1].upper() + text[1:]


def number(value: float | None, *, percent: bool, signed: bool = False) -> str:
    """Return a value as text, ``12.3 %`` or ``4.56``; ``n/a`` where there is none."""
    if value is None:
        return "n/a"
    shown = 100 * value if percent else value
    digits = 1 if percent or abs(shown) >= 100 else 2
    text = f"{shown:+.{digits}f}" if signed else f"{shown:.{digits}f}"
    return text.replace("-", "\u2212")


def span(entry: Metric | None, *, percent: bool, signed: bool = False) -> str:
    """Return the interval of an entry as text, ``12.1 to 14.5``; empty where there is none."""
    if entry is None or entry.get("ci_low") is None or entry.get("ci_high") is None:
        return ""
    ends = (number(entry[key], percent=percent, signed=signed) for key in ("ci_low", "ci_high"))
    return " to ".join(ends)


def headline_table(run_dir: Path, *, every_task: bool = False) -> Table:
    """Return the before/after table of a run's first task, or of every task, for the terminal (print it with rich).

    The other tasks are in the report.

    Raises:
        UserError: when the folder holds nothing to show.
    """
    run = collect(run_dir)
    sections = headline_sections(run)
    first = [section for section in sections if every_task or section.task == sections[0].task]
    table = sections_table(first, run.before or "before", run.after or "after")
    others = sorted({section.task for section in sections} - {first[0].task}) if first else []
    if others:
        table.caption = f"in the report too: {', '.join(others)}"
    return table


def sections_table(
    sections: Sequence[Section], before: str, after: str, *, everything: bool = False
) -> Table:
    """Return a rich table of sections; ``everything`` shows all metrics, not only the headline.

    Where no section has a second policy there is one column of values, under the name ``before``.
    """
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    table.add_column("value \\[95 % interval]", min_width=34)
    compared = any(section.after for section in sections)
    for title in (before, after, "paired difference") if compared else (before,):
        table.add_column(escape(title), justify="right")
    if compared:
        table.add_column("")
    for section in sections:
        lines = section.lines if everything else section.top_lines
        counts = sorted({str(line.before["n"]) for line in lines if line.before.get("n")})
        table.add_section()
        title = f"{section.task}, {section.setting}"
        table.add_row(f"[bold]{escape(title)}[/], n = {', '.join(counts)}")
        for line in lines:
            cells = [_cell(line.before, line)]
            if compared:
                cells += [_cell(line.after, line), _cell(line.difference, line, signed=True)]
                cells.append(VERDICTS[line.verdict] if line.difference else "")
            table.add_row(f"  {escape(line.label)}{', %' if line.percent else ''}", *cells)
    return table


def _cell(entry: Metric | None, line: Line, *, signed: bool = False) -> str:
    if entry is None or entry.get("value") is None:
        return "" if entry is None else "n/a"
    interval = span(entry, percent=line.percent, signed=signed).replace(" to ", ", ")
    value = number(entry["value"], percent=line.percent, signed=signed)
    return value + (f" \\[{interval}]" if interval else "")
