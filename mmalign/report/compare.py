"""Two runs, or two evaluations, side by side with paired intervals on the samples they share."""

from __future__ import annotations

import io
from pathlib import Path

from mmalign.data.results import read_results
from mmalign.errors import UserError
from mmalign.report.collect import Evaluation, collect
from mmalign.report.headline import Section, compare, sections_table

__all__ = ["compare_runs", "compare_sections"]


def compare_runs(a: Path, b: Path, *, width: int = 150) -> str:
    """Return a table of B against A: values, n and the paired difference (B minus A).

    Args:
        a: a run folder, one of its arms (``runs/x/evals/sft``) or one evaluation folder.
        b: the same kind of folder.
        width: columns of the text.

    Raises:
        UserError: when the two share no evaluation, or an evaluation shares no sample.
    """
    from rich.console import Console

    console = Console(width=width, color_system=None, record=True, file=io.StringIO())
    console.print(f"A = {a}\nB = {b}", markup=False, highlight=False)
    console.print(sections_table(compare_sections(a, b), "A", "B", everything=True))
    return console.export_text()


def compare_sections(a: Path, b: Path) -> list[Section]:
    """Return a section per evaluation that both folders hold.

    Raises:
        UserError: as :func:`compare_runs`.
    """
    first, second = _evaluations(Path(a)), _evaluations(Path(b))
    shared = [name for name in first if name in second]
    if not shared and len(first) == len(second) == 1:
        (one, two) = next(iter(first)), next(iter(second))
        if first[one].task == second[two].task:
            shared, second = [one], {one: second[two]}
    if not shared:
        raise UserError(
            f"{a} and {b} share no evaluation; A holds {', '.join(first)}, B holds {', '.join(second)}"
        )
    for name in shared:
        ids = {sample["id"] for sample in first[name].samples}
        if ids.isdisjoint(sample["id"] for sample in second[name].samples):
            raise UserError(f"{name}: A and B share no sample id, so they cannot be compared row by row")
    return [compare(name, first[name], second[name]) for name in shared]


def _evaluations(folder: Path) -> dict[str, Evaluation]:
    """Evaluations by name: one folder's, an arm's, or those of a run's last arm."""
    if (folder / "results.json").is_file():
        return {folder.name: Evaluation(folder.parent.name, folder.name, folder, read_results(folder))}
    inside = {path.parent.name: path for path in sorted(folder.glob("*/results.json"))}
    if inside:
        return {
            name: Evaluation(folder.name, name, path.parent, read_results(path))
            for name, path in inside.items()
        }
    run = collect(folder)
    arm = str(run.after or run.before)
    found = {name: arms[arm] for name, arms in run.evals.items() if arm in arms}
    if not found:
        raise UserError(f"{folder} holds no evaluations; expected evals/<arm>/<task>/results.json")
    return found
