"""What the claims about learning control from recordings share: statements over files that an arm left behind."""

from __future__ import annotations

from collections.abc import Callable

from mmalign.benchmarks.claims.checks import minus, must, report
from mmalign.claims.definition import Verdict
from mmalign.claims.results import Results
from mmalign.claims.rules import at_least, rises, undecided

__all__ = [
    "PROGRESS",
    "QUALITY",
    "SUCCESS",
    "above",
    "at_most_below",
    "better",
    "better_by",
    "minus",
    "must",
    "numbers",
    "report",
]

QUALITY = "stages/reward_model/quality.json"
"""Where a reward model's held-out numbers lie in a run folder."""
SUCCESS, PROGRESS = "sweep@greedy/success", "sweep@greedy/progress"


def numbers(results: Results, arm: str, key: str, file: str = QUALITY) -> dict[str, list[float]]:
    """One number per start and seed out of a JSON file of the arm's run folder."""
    found: dict[str, list[float]] = {}
    for cell in results.cells(arm):
        found.setdefault(cell.start, []).append(float(results.document(arm, file, cell)[key]))
    return found


def above(
    arm: str, key: str, other: str, other_key: str | None = None, *, sign: float = 1.0, unit: str = ""
) -> Callable[[Results], Verdict]:
    """A number of one arm is above another's (below with ``sign`` -1), paired by seed."""

    def check(results: Results) -> Verdict:
        gaps = minus(numbers(results, arm, key), numbers(results, other, other_key or key))
        return rises({start: [sign * gap for gap in column] for start, column in gaps.items()}, unit=unit)

    return check


def better(arm: str, other: str, metric: str = SUCCESS) -> Callable[[Results], Verdict]:
    """A number of the test episodes (their success) is above another arm's, paired by seed and start."""
    return lambda results: rises(results.change(arm, other, metric))


def better_by(arm: str, other: str, least: float, metric: str = SUCCESS) -> Callable[[Results], Verdict]:
    """The same, by ``least`` or more."""
    return lambda results: at_least(results.change(arm, other, metric), least, unit="points")


def at_most_below(arm: str, other: str, margin: float, metric: str = SUCCESS) -> Callable[[Results], Verdict]:
    """A number (success) is not more than ``margin`` below another arm's, with the whole interval."""

    def check(results: Results) -> Verdict:
        change = results.change(arm, other, metric)
        if not any(
            results.per_start(name, metric)[start][k]
            for name in (arm, other)
            for start in change
            for k in range(len(change[start]))
        ):
            return undecided("both are 0 for every seed: nothing was learnt that could be compared")
        room = {start: [gap + margin for gap in column] for start, column in change.items()}
        return at_least(room, 0.0, unit="points")

    return check
