"""Lengths of prompts and answers, and whether the preferred answer is the longer one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mmalign.stats.intervals import bootstrap_mean, t_interval, wilson

__all__ = ["LengthBias", "length_bias", "summary"]

LengthBias = dict[str, Any]
"""``difference`` (words, chosen minus rejected) and ``chosen_longer`` (share), each with its interval."""

_BOOTSTRAP_UP_TO = 5000


def summary(lengths: Sequence[int]) -> dict[str, float | int]:
    """Count, mean, median, 5th and 95th percentile and maximum."""
    if not lengths:
        return {"n": 0}
    values = np.asarray(lengths, dtype=np.float64)
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
    return {
        "n": len(lengths),
        "mean": float(values.mean()),
        "median": float(middle),
        "p05": float(low),
        "p95": float(high),
        "max": int(values.max()),
    }


def length_bias(chosen: Sequence[int], rejected: Sequence[int]) -> LengthBias:
    """How much longer the chosen answer is, and how often; ties count for neither side.

    The interval of the mean is a bootstrap over pairs, from 5,000 pairs on Student's t (they agree there).

    Args:
        chosen: words of every chosen answer.
        rejected: words of the rejected answer of the same pair.
    """
    if not chosen:
        return {"n": 0}
    difference = np.asarray(chosen, dtype=np.float64) - np.asarray(rejected, dtype=np.float64)
    small = len(difference) < _BOOTSTRAP_UP_TO
    mean = bootstrap_mean(difference) if small else t_interval(difference)
    longer, shorter = int((difference > 0).sum()), int((difference < 0).sum())
    share = wilson(longer, longer + shorter)
    low, high = mean.ci_low, mean.ci_high
    biased = low is not None and high is not None and (low > 0 or high < 0)
    return {
        "n": len(difference),
        "difference": mean.as_dict(),
        "chosen_longer": share.as_dict(),
        "biased": bool(biased),
    }
