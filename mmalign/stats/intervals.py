"""Confidence intervals: one number never goes out without its n and the method that made the interval.

Wilson for rates of independent 0/1 outcomes; the cluster bootstrap where one picture gives several answers,
or for ratios and other composites; the paired bootstrap for A against B on the same samples; Student's t over
seeds.  Bootstraps resample clusters, are vectorised over replicates, and repeat exactly under one seed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats as scipy_stats

__all__ = [
    "Interval",
    "Statistic",
    "bootstrap_mean",
    "cluster_bootstrap",
    "paired_bootstrap",
    "t_interval",
    "wilson",
]

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Maps column totals ``[R, K + 1]`` (last column: number of rows) to one number per replicate ``[R]``."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its interval; ``None`` where there is no such number (no data, or one seed only)."""

    value: float | None
    ci_low: float | None
    ci_high: float | None
    method: str
    n: int

    def as_dict(self) -> dict[str, float | int | str | None]:
        """The fields as the results schema names them."""
        return asdict(self)


def _check_level(level: float) -> None:
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie in (0, 1), got {level}")


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of a rate: honest at 0 of n and n of n, where the normal one has no width.

    ``(p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)``

    *Reference:* Wilson (1927). *Differs from paper:* none (no continuity correction).

    Args:
        successes: how many of the n outcomes were 1.
        n: number of independent outcomes; 0 gives an interval of ``None``.
        level: coverage, e.g. 0.95.

    Raises:
        ValueError: when successes is not between 0 and n.
    """
    _check_level(level)
    if not 0 <= successes <= n:
        raise ValueError(f"successes must lie between 0 and n, got {successes} of {n}")
    if n == 0:
        return Interval(None, None, None, "wilson", 0)
    z = float(scipy_stats.norm.ppf(0.5 + level / 2.0))
    rate, scale = successes / n, 1.0 + z * z / n
    centre = (rate + z * z / (2 * n)) / scale
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / scale
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return Interval(rate, low, high, "wilson", n)


def t_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Student's t interval of a mean over few independent runs (seeds): ``mean -+ t sd / sqrt(n)``.

    Args:
        values: ``[n]`` one number per seed; with fewer than two there is no interval.
        level: coverage.

    Raises:
        ValueError: on values that are not finite or not one-dimensional.
    """
    _check_level(level)
    x = _columns(values)[:, 0]
    if x.size == 0:
        return Interval(None, None, None, "t", 0)
    mean = float(x.mean())
    if x.size == 1:
        return Interval(mean, None, None, "t", 1)
    half = float(scipy_stats.t.ppf(0.5 + level / 2.0, x.size - 1) * x.std(ddof=1) / math.sqrt(x.size))
    return Interval(mean, mean - half, mean + half, "t", int(x.size))


def _columns(values: ArrayLike) -> NDArray[np.float64]:
    x = np.asarray(values, dtype=np.float64)
    x = x.reshape(-1, 1) if x.ndim == 1 else x
    if x.ndim != 2:
        raise ValueError(f"values must be [N] or [N, K], got shape {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError(f"values must be finite, row {int(np.argwhere(~np.isfinite(x))[0][0])} is not")
    return x


def _totals(x: NDArray[np.float64], clusters: Sequence[object] | None) -> NDArray[np.float64]:
    """Column sums per cluster with the row count as last column, ``[C, K + 1]``."""
    rows = np.concatenate([x, np.ones((x.shape[0], 1))], axis=1)
    if clusters is None:
        return rows
    if len(clusters) != x.shape[0]:
        raise ValueError(f"{x.shape[0]} values but {len(clusters)} clusters")
    number: dict[object, int] = {}
    index = [number.setdefault(cluster, len(number)) for cluster in clusters]
    totals = np.zeros((len(number), rows.shape[1]))
    np.add.at(totals, index, rows)
    return totals


def _mean_of_first(totals: NDArray[np.float64]) -> NDArray[np.float64]:
    mean: NDArray[np.float64] = totals[:, 0] / totals[:, -1]
    return mean


@functools.lru_cache(maxsize=2)
def _weights(size: int, draws: int, seed: int) -> NDArray[np.float64]:
    """How often each of ``size`` clusters is drawn, ``[draws, size]``; kept, as many metrics share them."""
    rng = np.random.default_rng(seed)
    counts: NDArray[np.float64] = rng.multinomial(size, np.full(size, 1.0 / size), size=draws).astype(
        np.float64
    )
    counts.setflags(write=False)
    return counts


def _resample(totals: NDArray[np.float64], draws: int, seed: int) -> NDArray[np.float64]:
    """``[draws, K + 1]`` totals of resampled clusters, in blocks so that memory stays small."""
    size = totals.shape[0]
    block = max(1, 4_000_000 // size)
    if block >= draws:
        return _weights(size, draws, seed) @ totals
    rng = np.random.default_rng(seed)
    parts = []
    for start in range(0, draws, block):
        counts = rng.multinomial(size, np.full(size, 1.0 / size), size=min(block, draws - start))
        parts.append(counts @ totals)
    return np.concatenate(parts)


def _percentiles(replicates: NDArray[np.float64], level: float) -> tuple[float | None, float | None]:
    finite = replicates[np.isfinite(replicates)]
    if finite.size == 0:
        return None, None
    low, high = np.quantile(finite, [0.5 - level / 2.0, 0.5 + level / 2.0])
    return float(low), float(high)


def _point(statistic: Statistic, totals: NDArray[np.float64]) -> float | None:
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic(totals.sum(0, keepdims=True))[0])
    return value if math.isfinite(value) else None


def cluster_bootstrap(
    values: ArrayLike,
    clusters: Sequence[object] | None = None,
    statistic: Statistic | None = None,
    *,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap over clusters (pictures, scenes, prompts) of a mean or of any ratio of totals.

    Args:
        values: ``[N]`` or ``[N, K]`` columns per sample, e.g. hallucinated and stated sentences.
        clusters: ``[N]`` names; samples of one cluster are drawn together.  Each its own when ``None``.
        statistic: vectorised function of totals ``[R, K + 1]`` (last column: number of samples); the mean
            of the first column when ``None``.  Replicates with 0/0 are left out.
        draws: number of replicates.
        level: coverage.
        seed: of the resampling.

    Returns:
        interval with ``n`` = samples and ``method`` naming the number of clusters.

    Raises:
        ValueError: on values that are not finite or lengths that differ.
    """
    _check_level(level)
    x = _columns(values)
    totals = _totals(x, clusters)
    name = "bootstrap" if clusters is None else f"cluster bootstrap ({totals.shape[0]} clusters)"
    if x.shape[0] == 0:
        return Interval(None, None, None, name, 0)
    chosen = statistic or _mean_of_first
    with np.errstate(divide="ignore", invalid="ignore"):
        replicates = chosen(_resample(totals, draws, seed))
    low, high = _percentiles(replicates, level)
    return Interval(_point(chosen, totals), low, high, name, int(x.shape[0]))


def bootstrap_mean(values: ArrayLike, *, draws: int = 2000, level: float = 0.95, seed: int = 0) -> Interval:
    """Percentile bootstrap of the mean of independent samples ``[N]``.

    Raises:
        ValueError: as :func:`cluster_bootstrap`.
    """
    return cluster_bootstrap(values, draws=draws, level=level, seed=seed)


def paired_bootstrap(
    values_a: ArrayLike,
    values_b: ArrayLike,
    clusters: Sequence[object] | None = None,
    statistic: Statistic | None = None,
    *,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Interval of ``statistic(B) - statistic(A)`` on the *same* samples: each replicate draws once for both.

    Args:
        values_a: ``[N]`` or ``[N, K]`` of system A.
        values_b: the same of system B, row for row the same sample.
        clusters: as :func:`cluster_bootstrap`, as the remaining arguments.
        statistic: as :func:`cluster_bootstrap`.
        draws: number of replicates.
        level: coverage.
        seed: of the resampling.

    Raises:
        ValueError: when A and B differ in shape, and as :func:`cluster_bootstrap`.
    """
    _check_level(level)
    a, b = _columns(values_a), _columns(values_b)
    if a.shape != b.shape:
        raise ValueError(f"paired samples must match row for row, got {a.shape} and {b.shape}")
    totals_a, totals_b = _totals(a, clusters), _totals(b, clusters)
    name = "paired bootstrap" if clusters is None else f"paired bootstrap ({totals_a.shape[0]} clusters)"
    if a.shape[0] == 0:
        return Interval(None, None, None, name, 0)
    chosen = statistic or _mean_of_first
    with np.errstate(divide="ignore", invalid="ignore"):
        replicates = chosen(_resample(totals_b, draws, seed)) - chosen(_resample(totals_a, draws, seed))
    low, high = _percentiles(replicates, level)
    point_a, point_b = _point(chosen, totals_a), _point(chosen, totals_b)
    value = None if point_a is None or point_b is None else point_b - point_a
    return Interval(value, low, high, name, int(a.shape[0]))
