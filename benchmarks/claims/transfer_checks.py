"""What the claims about tuners share: arms on a suite of transfer tasks, and differences paired by seed and task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mmalign.benchmarks.claims.checks import Check
from mmalign.claims.definition import Arm, Verdict
from mmalign.claims.results import Results
from mmalign.claims.rules import seed_means, spread
from mmalign.stats.intervals import t_interval

__all__ = [
    "EIGHT",
    "EQUAL",
    "GROUPS",
    "SHARED",
    "TABLES",
    "TASKS",
    "above",
    "counts",
    "gaps",
    "pooled",
    "tuned",
]

TASKS, GROUPS = "measured/average/tasks", "measured/average/groups"
TABLES: Mapping[str, str] = {
    "mean over tasks": TASKS,
    "mean of groups": GROUPS,
    "trained": "measured/cost/trainable",
    "activations, bytes": "measured/cost/saved_bytes",
    "CPU s per fit": "measured/cost/cpu_seconds",
}
"""Columns of the printed table."""
SHARED: Mapping[str, Any] = {"transfer.selection_seed": 0, "transfer.selection_dir": "../../selection"}
"""Rates are chosen with seed 0, per arm and task, and shared by every seed."""
EIGHT = ("digits", "grating-orientation", "shape-hue", "cells", "roads", "count", "distance", "orientation")
"""Three natural, two specialised and three structured tasks of mini-VTAB: all nineteen cost too much for an evening."""
EQUAL = ("transfer",)
"""Keys in which arms may not differ, but for those a claim varies."""
_TASK = "measured/task/"


def tuned(
    name: str,
    tuner: str,
    text: str,
    options: Mapping[str, Any] | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Arm:
    """An arm that runs stage ``transfer`` with a tuner; ``changes`` are further keys below ``transfer``."""
    overrides = {
        "transfer.tuner.name": tuner,
        **{f"transfer.tuner.options.{key}": value for key, value in (options or {}).items()},
        **{f"transfer.{key}": value for key, value in (changes or {}).items()},
    }
    return Arm(name, overrides, stages=("transfer",), text=text)


def gaps(results: Results, arm: str, other: str) -> dict[str, list[float]]:
    """Difference of the test scores per task, one number for each seed (and start)."""
    found: dict[str, list[float]] = {}
    for cell in results.cells(arm):
        ours, theirs = results.metrics(arm, cell), results.metrics(other, cell)
        for name in ours:
            if name.startswith(_TASK):
                mine, yours = ours[name], theirs[name]
                assert mine is not None and yours is not None
                found.setdefault(name.removeprefix(_TASK), []).append(mine - yours)
    return found


def pooled(
    results: Results, arm: str, pairs: Iterable[tuple[str, str]], margin: float = 0.0
) -> dict[str, list[float]]:
    """Differences between two figures that a job measured, for every pair of their names and every cell, as one pool.

    ``margin`` is added to each.
    """
    return {
        "pairs": [
            results.value(arm, f"measured/{ours}", cell)
            - results.value(arm, f"measured/{theirs}", cell)
            + margin
            for ours, theirs in pairs
            for cell in results.cells(arm)
        ]
    }


def above(arm: str, other: str) -> Check:
    """Holds when the arm is above the other: the 95 % interval over pairs (seed, task) lies above 0.

    Beside it stand the interval over tasks (each the mean over its seeds), which asks whether other tasks would say
    the same, and the one over seeds; fails when the mean is not above 0.
    """

    def check(results: Results) -> Verdict:
        found = gaps(results, arm, other)
        pairs = t_interval([gap for column in found.values() for gap in column])
        means = [sum(column) / len(column) for column in found.values()]
        tasks, seeds = t_interval(means), t_interval(seed_means(found))
        assert pairs.value is not None
        clear = pairs.ci_low is not None and pairs.ci_low > 0
        verdict: Any = "fails" if pairs.value <= 0 else "holds" if clear else "inconclusive"
        n = sum(len(column) for column in found.values())
        text = (
            f"{100 * pairs.value:.2f} points{spread(pairs, 'points')} over {n} pairs of seed and task; "
            f"over {len(means)} tasks{spread(tasks, 'points')}, over seeds{spread(seeds, 'points')}; "
            f"above in {sum(mean > 0 for mean in means)} of {len(means)} tasks"
        )
        return Verdict(verdict, pairs.value, pairs.ci_low, pairs.ci_high, text)

    return check


def counts(
    wanted: int, near: tuple[str, ...], at_least: tuple[str, ...] = (), tolerance: float = 0.01
) -> Check:
    """The arms ``near`` train ``wanted`` numbers to the tolerance, those of ``at_least`` as many or more."""

    def check(results: Results) -> Verdict:
        known = {arm.name for arm in results.arms()}
        trained = {
            arm: [results.value(arm, "measured/cost/trainable", cell) for cell in results.cells(arm)]
            for arm in (*near, *at_least)
            if arm in known
        }
        right = all(
            abs(count - wanted) <= tolerance * wanted if arm in near else count >= wanted
            for arm, column in trained.items()
            for count in column
        )
        text = ", ".join(f"{arm} {min(column):.0f} to {max(column):.0f}" for arm, column in trained.items())
        return Verdict("holds" if right else "fails", text=f"{wanted} wanted; {text}")

    return check
