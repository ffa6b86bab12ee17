"""The two averages that papers on transfer report: over tasks, and over the means of groups of tasks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Averages", "averages"]


@dataclass(frozen=True, slots=True)
class Averages:
    """Two averages of the same scores, which differ where groups differ in size.

    Args:
        tasks: mean over all tasks, as the benchmark's authors define it.
        groups: mean of the means of the groups, as most papers on tuning print it.
        by_group: the mean of each group, in the order groups appear.
    """

    tasks: float
    groups: float
    by_group: Mapping[str, float]


def averages(scores: Mapping[str, float], group_of: Mapping[str, str]) -> Averages:
    """Both averages of ``scores``.

    Equation: ``mean_t s_t`` and ``mean_g mean_{t in g} s_t``.

    Reference: Zhai et al. 2019, arXiv 1910.04867 (VTAB: over tasks); Jia et al. 2022, arXiv 2203.12119 (of groups).

    Args:
        scores: task -> score, at least one.
        group_of: task -> group, for every task in ``scores``.

    Raises:
        ValueError: without scores.
        KeyError: for a task without a group.
    """
    if not scores:
        raise ValueError("averages: no task has a score")
    members: dict[str, list[float]] = defaultdict(list)
    for task, score in scores.items():
        members[group_of[task]].append(score)
    by_group = {group: sum(found) / len(found) for group, found in members.items()}
    return Averages(sum(scores.values()) / len(scores), sum(by_group.values()) / len(by_group), by_group)
