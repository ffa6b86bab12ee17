"""How good a judge or a reward model is: ranking, accuracy against the majority, calibration, agreement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from mmalign.stats.intervals import Interval, wilson

__all__ = [
    "AccuracyReport",
    "CalibrationBin",
    "accuracy_report",
    "auc",
    "brier",
    "calibration_table",
    "expected_calibration_error",
    "kappa",
]


def _binary(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    s, y = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if s.shape != y.shape or s.ndim != 1:
        raise ValueError(f"scores and labels must be two lists of one length, got {s.shape} and {y.shape}")
    if not np.isfinite(s).all():
        raise ValueError("scores must be finite")
    if not np.isin(y, (0.0, 1.0)).all():
        raise ValueError("labels must be 0 or 1")
    return s, y


def _probabilities(
    probabilities: ArrayLike, labels: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    p, y = _binary(probabilities, labels)
    if p.size and (p.min() < 0.0 or p.max() > 1.0):
        raise ValueError("probabilities must lie in [0, 1]")
    return p, y


def auc(scores: ArrayLike, labels: ArrayLike) -> float | None:
    """Area under the ROC curve: the chance that a positive outscores a negative, ties counting one half.

    *Reference:* Mann & Whitney (1947). *Differs from paper:* none.

    Args:
        scores: ``[N]`` any real score, higher for positives.
        labels: ``[N]`` 0 or 1.

    Returns:
        a number in [0, 1], or ``None`` when one class is absent.

    Raises:
        ValueError: on lengths that differ, scores that are not finite, labels other than 0 and 1.
    """
    s, y = _binary(scores, labels)
    positives = int(y.sum())
    negatives = y.size - positives
    if positives == 0 or negatives == 0:
        return None
    rank_sum = float(rankdata(s)[y == 1].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


@dataclass(frozen=True, slots=True)
class AccuracyReport:
    """Accuracy with its Wilson interval beside what always answering the commonest class would score."""

    accuracy: Interval
    majority: float | None
    majority_class: object
    n: int


def accuracy_report(predictions: Sequence[object], labels: Sequence[object]) -> AccuracyReport:
    """Accuracy against the majority class: a judge that does not beat it has learned nothing.

    Args:
        predictions: ``[N]`` predicted classes.
        labels: ``[N]`` true classes; of equally common ones the first seen is the majority.

    Raises:
        ValueError: on lengths that differ.
    """
    if len(predictions) != len(labels):
        raise ValueError(f"{len(predictions)} predictions but {len(labels)} labels")
    n = len(labels)
    if n == 0:
        return AccuracyReport(wilson(0, 0), None, None, 0)
    counts: dict[object, int] = {}
    for label in labels:
        counts[label] = counts.get(label, 0) + 1
    top = max(counts, key=lambda label: counts[label])
    right = sum(p == y for p, y in zip(predictions, labels, strict=True))
    return AccuracyReport(wilson(right, n), counts[top] / n, top, n)


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """One bin ``(low, high]`` of predicted probability: how often the event came true in it."""

    low: float
    high: float
    n: int
    confidence: float
    frequency: float


def calibration_table(probabilities: ArrayLike, labels: ArrayLike, bins: int = 10) -> list[CalibrationBin]:
    """Mean predicted probability beside observed frequency, in equal-width bins (empty ones left out).

    Args:
        probabilities: ``[N]`` predicted probability of the event.
        labels: ``[N]`` 1 where it came true, else 0.
        bins: number of equal-width bins of [0, 1]; 0 falls into the first.

    Raises:
        ValueError: on lengths that differ, probabilities outside [0, 1], labels other than 0 and 1.
    """
    if bins < 1:
        raise ValueError(f"bins must be >= 1, got {bins}")
    p, y = _probabilities(probabilities, labels)
    edges = np.linspace(0.0, 1.0, bins + 1)
    index = np.clip(np.searchsorted(edges, p, side="left") - 1, 0, bins - 1)
    table = []
    for k in range(bins):
        inside = index == k
        if inside.any():
            mean_p, mean_y = float(p[inside].mean()), float(y[inside].mean())
            table.append(
                CalibrationBin(float(edges[k]), float(edges[k + 1]), int(inside.sum()), mean_p, mean_y)
            )
    return table


def expected_calibration_error(probabilities: ArrayLike, labels: ArrayLike, bins: int = 10) -> float | None:
    """``sum_k n_k / N |frequency_k - confidence_k|`` over the bins of :func:`calibration_table`.

    *Reference:* Naeini et al. (2015); Guo et al. (2017, arXiv:1706.04599), eq. 3. *Differs from paper:* none.
    ``None`` without data.

    Raises:
        ValueError: as :func:`calibration_table`.
    """
    table = calibration_table(probabilities, labels, bins)
    total = sum(row.n for row in table)
    return sum(row.n * abs(row.frequency - row.confidence) for row in table) / total if total else None


def brier(probabilities: ArrayLike, labels: ArrayLike) -> float | None:
    """Mean squared error of predicted probabilities, ``mean (p - y)^2``; 0.25 is a constant one half.

    *Reference:* Brier (1950). *Differs from paper:* the two-class form (half the original). ``None`` without
    data.

    Raises:
        ValueError: as :func:`calibration_table`.
    """
    p, y = _probabilities(probabilities, labels)
    return float(np.square(p - y).mean()) if p.size else None


def kappa(first: Sequence[object], second: Sequence[object]) -> float | None:
    """Cohen's kappa of two judges: ``(agreement - chance) / (1 - chance)``.

    *Reference:* Cohen (1960). *Differs from paper:* none.  ``None`` without data, or where both judges always
    give the one same label and chance agreement is already 1.

    Args:
        first: ``[N]`` labels of one judge.
        second: ``[N]`` labels of the other.

    Raises:
        ValueError: on lengths that differ.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} labels of one judge but {len(second)} of the other")
    n = len(first)
    if n == 0:
        return None
    classes = set(first) | set(second)
    agreement = sum(a == b for a, b in zip(first, second, strict=True)) / n
    chance = sum(list(first).count(c) * list(second).count(c) for c in classes) / (n * n)
    return None if chance >= 1.0 else (agreement - chance) / (1.0 - chance)
