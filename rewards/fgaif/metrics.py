"""How good are the reward models?  Accuracy, AUC and calibration per type, against the majority class.

Two views, both always given: ``all`` counts every labelled segment and three classes (a model can
shine there by spotting which sentences are about the type at all), ``applicable`` counts only segments
whose true label is -1 or +1 and asks which of the two (this is what a reward needs).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from mmalign.rewards.fgaif.data import IGNORE, segment_labels
from mmalign.stats.agreement import accuracy_report, auc, brier, expected_calibration_error
from mmalign.types import Row

__all__ = ["quality"]


def quality(probabilities: Mapping[str, Tensor], rows: Sequence[Row]) -> dict[str, dict[str, dict[str, Any]]]:
    """Compare predictions with held-out labels.

    Args:
        probabilities: type -> ``[N, 3]`` from ``SegmentRewardModel.predict(rows)``.
        rows: the same rows with labelled segments.

    Returns:
        ``{type: {"all": {...}, "applicable": {...}}}``.  Both hold ``n``, ``accuracy`` with Wilson
        ``ci_low`` and ``ci_high``, ``majority`` (accuracy of always answering the commonest label) and
        ``ece`` (of the highest class probability; in ``applicable`` of ``p(+1) / (p(+1) + p(-1))``).
        ``applicable`` adds ``auc`` and ``brier`` of that share, and ``positive``, the share of +1.
        Numbers without data are ``None``.
    """
    result = {}
    for kind, values in probabilities.items():
        labels = segment_labels(rows, kind).numpy()
        p = values.detach().double().cpu().numpy()
        known = labels != IGNORE
        result[kind] = {
            "all": _all(p[known], labels[known]),
            "applicable": _applicable(p[known], labels[known]),
        }
    return result


def _all(p: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    guess = p.argmax(axis=1) - 1
    ece = expected_calibration_error(np.clip(p.max(axis=1, initial=0.0), 0.0, 1.0), guess == labels)
    return {**_accuracy(guess, labels), "ece": ece}


def _applicable(p: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    picked = labels != 0
    good, bad = p[picked, 2], p[picked, 0]
    share = np.clip(good / np.maximum(good + bad, 1e-12), 0.0, 1.0)
    true = labels[picked]
    positive = (true == 1).astype(float)
    return {
        **_accuracy(np.where(share >= 0.5, 1, -1), true),
        "positive": float(positive.mean()) if len(positive) else None,
        "auc": auc(share, positive),
        "brier": brier(share, positive),
        "ece": expected_calibration_error(share, positive),
    }


def _accuracy(guess: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    report = accuracy_report(guess.tolist(), labels.tolist())
    interval = report.accuracy
    return {
        "n": report.n,
        "accuracy": interval.value,
        "ci_low": interval.ci_low,
        "ci_high": interval.ci_high,
        "majority": report.majority,
    }
