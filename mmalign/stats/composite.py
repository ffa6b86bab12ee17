"""Metrics as functions of summed per-sample scores, so that one definition serves intervals and comparisons.

A composite names the score columns it needs and maps their totals to a number.  The same object gives the
value with its interval (Wilson where the samples are independent 0/1 outcomes, else the cluster bootstrap)
and the paired difference of two systems on the same samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmalign.stats.intervals import (
    Interval,
    Statistic,
    cluster_bootstrap,
    paired_bootstrap,
    wilson,
)

__all__ = ["Composite", "columns_of", "f1", "macro_f1", "mean", "ratio"]

Sample = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Composite:
    """A metric over samples.

    Args:
        columns: names of scores (or of top-level number fields of a sample, such as ``steps``).
        statistic: totals ``[R, K + 1]`` (last column: number of samples) to values ``[R]``.
        higher_is_better: None where neither direction is better.
        rate: true for a share in [0, 1].  Independent 0/1 samples then get the Wilson interval, and a share
            of exactly 0 or 1, where every replicate agrees, gets it on the number of clusters.
    """

    columns: tuple[str, ...]
    statistic: Statistic
    higher_is_better: bool | None = None
    rate: bool = False

    def interval(self, samples: Sequence[Sample], *, draws: int = 2000, seed: int = 0) -> Interval:
        """The value over the samples that carry every column, with its interval."""
        values, clusters = columns_of(samples, self.columns)
        independent = len(set(clusters)) == len(clusters)
        if self.rate and len(self.columns) == 1 and independent and np.isin(values, (0.0, 1.0)).all():
            share = float(self.statistic(np.array([[values.sum(), max(len(values), 1)]]))[0])
            return wilson(round(share * len(values)), len(values))
        found = cluster_bootstrap(values, clusters, self.statistic, draws=draws, seed=seed)
        if self.rate and found.value in (0.0, 1.0) and found.ci_low == found.ci_high:
            size = len(set(clusters))
            edge = wilson(round(found.value * size), size)
            return Interval(found.value, edge.ci_low, edge.ci_high, f"wilson on {size} clusters", found.n)
        return found

    def paired(
        self, a: Sequence[Sample], b: Sequence[Sample], *, draws: int = 2000, seed: int = 0
    ) -> Interval:
        """Value of ``b`` minus value of ``a`` on the ids they share; each replicate draws once for both."""
        kept_a, kept_b = _with_columns(a, self.columns), _with_columns(b, self.columns)
        shared = [name for name in kept_a if name in kept_b]
        values_a, clusters = columns_of([kept_a[name] for name in shared], self.columns)
        values_b, _ = columns_of([kept_b[name] for name in shared], self.columns)
        return paired_bootstrap(values_a, values_b, clusters, self.statistic, draws=draws, seed=seed)

    def record(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """The entry of ``results.json``."""
        return {**self.interval(samples).as_dict(), "higher_is_better": self.higher_is_better}


def columns_of(samples: Sequence[Sample], columns: Sequence[str]) -> tuple[NDArray[np.float64], list[str]]:
    """Return ``[N, K]`` numbers and the ``[N]`` clusters of the samples that carry every column."""
    kept = list(_with_columns(samples, columns).values())
    values = [[float(_look_up(sample, name)) for name in columns] for sample in kept]
    array = np.asarray(values, dtype=np.float64).reshape(len(kept), len(columns))
    return array, [str(sample.get("cluster", sample["id"])) for sample in kept]


def _look_up(sample: Sample, name: str) -> Any:
    scores = sample.get("scores") or {}
    return scores[name] if name in scores else sample.get(name)


def _with_columns(samples: Sequence[Sample], columns: Sequence[str]) -> dict[str, Sample]:
    return {
        str(sample["id"]): sample
        for sample in samples
        if "error" not in sample and all(_look_up(sample, name) is not None for name in columns)
    }


def mean(column: str, higher_is_better: bool | None = None, *, rate: bool = True) -> Composite:
    """Mean of one score over samples; ``rate`` says that it is a 0/1 score and the mean a share."""
    return Composite((column,), lambda t: t[:, 0] / t[:, -1], higher_is_better, rate)


def ratio(
    over: Sequence[str] | str, under: Sequence[str] | str, higher_is_better: bool | None = None
) -> Composite:
    """Share: the sum of the ``over`` columns divided by that of the ``under`` columns (a micro average)."""
    top = (over,) if isinstance(over, str) else tuple(over)
    bottom = (under,) if isinstance(under, str) else tuple(under)

    def statistic(totals: NDArray[np.float64]) -> NDArray[np.float64]:
        value: NDArray[np.float64] = totals[:, : len(top)].sum(1) / totals[:, len(top) : -1].sum(1)
        return value

    return Composite((*top, *bottom), statistic, higher_is_better, rate=True)


def _f1_of(totals: NDArray[np.float64], start: int) -> NDArray[np.float64]:
    """Micro F1 from the columns stated true, stated false, found, to be found; stating nothing earns 0."""
    true, false, found, wanted = (totals[:, start + k] for k in range(4))
    precision, recall = true / np.maximum(true + false, 1e-12), found / wanted
    value: NDArray[np.float64] = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return value


def f1(true: str, false: str, found: str, wanted: str) -> Composite:
    """Harmonic mean of ``true / (true + false)`` and ``found / wanted``, both summed over samples."""
    return Composite((true, false, found, wanted), lambda t: _f1_of(t, 0), higher_is_better=True)


def macro_f1(groups: Sequence[tuple[str, str, str, str]]) -> Composite:
    """Plain average of :func:`f1` over groups of columns."""
    columns = tuple(name for group in groups for name in group)

    def statistic(totals: NDArray[np.float64]) -> NDArray[np.float64]:
        parts = [_f1_of(totals, 4 * k) for k in range(len(groups))]
        value: NDArray[np.float64] = np.mean(parts, axis=0)
        return value

    return Composite(columns, statistic, higher_is_better=True)
