"""Statements and checks that claims of several kinds share."""

from __future__ import annotations

from collections.abc import Callable

from mmalign.claims.definition import Statement, Verdict
from mmalign.claims.results import PerStart, Results
from mmalign.claims.rules import over_seeds, undecided

__all__ = [
    "Check",
    "equal_steps",
    "first_update_is_on_policy",
    "minus",
    "must",
    "ran",
    "report",
    "shown_beside",
]

Check = Callable[[Results], Verdict]
"""What decides a statement."""


def must(ident: str, text: str, check: Check) -> Statement:
    """A statement that has to hold."""
    return Statement(ident, text, True, check)


def report(ident: str, text: str, check: Check) -> Statement:
    """A statement that is measured and reported."""
    return Statement(ident, text, False, check)


def minus(ours: PerStart, theirs: PerStart) -> dict[str, list[float]]:
    """Paired differences."""
    return {start: [a - b for a, b in zip(ours[start], theirs[start], strict=True)] for start in ours}


def ran(results: Results, arms: tuple[str, ...]) -> list[str]:
    """The named arms that this run has (``--arms`` leaves some out)."""
    known = {arm.name for arm in results.arms()}
    return [arm for arm in arms if arm in known]


def equal_steps(stage: str, *arms: str) -> Check:
    """The named arms that ran, or every trained arm, made the same number of steps of a stage in every cell."""

    def check(results: Results) -> Verdict:
        trained = tuple(arm.name for arm in results.arms() if arm.kind == "train")
        seen = {
            results.steps(arm, stage, cell)
            for arm in ran(results, arms or trained)
            for cell in results.cells(arm)
        }
        if len(seen) != 1 or 0 in seen:
            return Verdict("fails", text=f"steps differ: {sorted(seen)}")
        return Verdict("holds", float(next(iter(seen))), text=f"{next(iter(seen))} steps everywhere")

    return check


def first_update_is_on_policy(arm: str, limit: float = 0.02) -> Check:
    """Recomputed log-probabilities equal the sampler's: the first step's ratio stays within ``limit`` of 1."""

    def check(results: Results) -> Verdict:
        firsts = [results.curve(arm, "grpo", "ratio/max", cell)[:1] for cell in results.cells(arm)]
        if not all(firsts):
            return undecided(f"{arm}: has no ratios")
        worst = max(abs(first[0] - 1.0) for first in firsts)
        text = f"largest distance of the first step's ratio from 1: {worst:.2g}"
        return Verdict("holds" if worst <= limit else "fails", worst, text=text)

    return check


def shown_beside(metric: str, *arms: str) -> Check:
    """Means over seeds of one figure, side by side, of the arms that ran; holds when all of them are known."""

    def check(results: Results) -> Verdict:
        values = {arm: over_seeds(results.per_start(arm, metric)).value for arm in ran(results, arms)}
        text = ", ".join(f"{arm} {value:.3g}" for arm, value in values.items() if value is not None)
        return Verdict("holds", text=text)

    return check
