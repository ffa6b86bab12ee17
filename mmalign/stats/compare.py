"""Comparing two arms over seeds: a paired interval, an exact permutation test, and Holm's correction."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmalign.stats.intervals import Interval, t_interval

__all__ = ["Alternative", "holm", "paired_difference", "sign_flip_test"]

Alternative = Literal["two-sided", "greater", "less"]
"""What the mean difference is suspected to be: not 0, above 0, or below 0."""

_EXACT_LIMIT = 20


def paired_difference(baseline: ArrayLike, treatment: ArrayLike, level: float = 0.95) -> Interval:
    """Mean of ``treatment - baseline`` over seeds with its t interval; seed i of one meets that of the other.

    Args:
        baseline: ``[n]`` one number per seed.
        treatment: ``[n]`` the same seeds in the same order.
        level: coverage.

    Raises:
        ValueError: when the lengths differ or a number is not finite.
    """
    a, b = np.asarray(baseline, dtype=np.float64), np.asarray(treatment, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"paired arms need one number per seed each, got shapes {a.shape} and {b.shape}")
    interval = t_interval(b - a, level)
    return Interval(interval.value, interval.ci_low, interval.ci_high, "paired t over seeds", interval.n)


def _all_signs(n: int) -> NDArray[np.float64]:
    return np.array(list(itertools.product((1.0, -1.0), repeat=n)))


def sign_flip_test(
    differences: ArrayLike, alternative: Alternative = "two-sided", *, draws: int = 100_000, seed: int = 0
) -> float:
    """P-value that the mean of paired differences is 0: under the null each sign is a fair coin.

    Exact over all ``2^n`` signs up to n = 20, beyond that ``draws`` random ones (``(hits+1)/(draws+1)``).
    With 5 seeds the smallest two-sided p is 2/32 = 0.0625: five seeds cannot reach 0.05 two-sided.

    *Reference:* Fisher (1935); Phipson & Smyth (2010) for the random version. *Differs from paper:* none.

    Args:
        differences: ``[n]`` one difference per seed.
        alternative: ``two-sided``, ``greater`` or ``less``.
        draws: random sign vectors where n > 20.
        seed: of those draws.

    Raises:
        ValueError: on no differences, a number that is not finite, or an unknown alternative.
    """
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 1 or d.size == 0 or not np.isfinite(d).all():
        raise ValueError(f"differences must be a non-empty list of finite numbers, got shape {d.shape}")
    if alternative not in ("two-sided", "greater", "less"):
        raise ValueError(f'unknown alternative "{alternative}", expected two-sided, greater or less')
    exact = d.size <= _EXACT_LIMIT
    if exact:
        signs = _all_signs(d.size)
    else:
        signs = np.random.default_rng(seed).choice((1.0, -1.0), size=(draws, d.size))
    null, observed = signs @ d, float(d.sum())
    if alternative == "two-sided":
        null, observed = np.abs(null), abs(observed)
    elif alternative == "less":
        null, observed = -null, -observed
    hits = int((null >= observed - 1e-12 * max(1.0, float(np.abs(d).sum()))).sum())
    return hits / len(signs) if exact else (hits + 1) / (draws + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the given order: compare each with the level wanted.

    ``p_(k) -> max_{j <= k} min(1, (m - j + 1) p_(j))``; valid under any dependence.

    *Reference:* Holm (1979). *Differs from paper:* none.

    Args:
        p_values: ``[m]`` raw p-values in [0, 1].

    Raises:
        ValueError: when a p-value lies outside [0, 1].
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.size and not (np.isfinite(p).all() and p.min() >= 0 and p.max() <= 1):
        raise ValueError(f"p-values must lie in [0, 1], got {list(p_values)}")
    order = np.argsort(p, kind="stable")
    adjusted = np.maximum.accumulate(np.minimum(1.0, (p.size - np.arange(p.size)) * p[order]))
    result = np.empty_like(p)
    result[order] = adjusted
    return [float(value) for value in result]
