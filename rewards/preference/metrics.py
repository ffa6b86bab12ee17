"""How good is a reward model on held-out rankings?  Accuracy, calibration, and what it owes to length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from mmalign.objectives.reward_model import lower_confidence
from mmalign.rewards.preference.data import Ranked
from mmalign.rewards.preference.losses import compared
from mmalign.rewards.preference.model import PreferenceRewardModel
from mmalign.stats.agreement import auc, brier, expected_calibration_error
from mmalign.stats.intervals import cluster_bootstrap

__all__ = ["answer_length", "quality"]


def quality(model: PreferenceRewardModel, groups: Sequence[Ranked], batch_size: int = 64) -> dict[str, Any]:
    """Measure a reward model on held-out prompts with ranked answers.

    Args:
        model: the trained model.
        groups: held-out rankings.
        batch_size: rows per pass.

    Returns:
        ``{"preference": {...}}`` with ``n`` (pairs) and ``prompts``; ``accuracy`` of the members' mean with
        ``ci_low`` and ``ci_high`` (cluster bootstrap over prompts) and ``longer``, the accuracy of preferring the
        longer answer; ``brier`` and ``ece`` of ``sigmoid(gap)``, and ``auc`` over both orders; for scores also the
        Spearman correlations ``score_worth``, ``score_length`` and ``worth_length`` over answers (length in steps);
        ``disagreement``, the mean standard deviation between members.  What does not exist is ``None``.
    """
    rows = [row for group in groups for row in group.rows]
    pairs = compared(groups)
    first, second = ([rows[int(k)] for k in side] for side in (pairs.better, pairs.worse))
    lengths = answer_length(model, rows)
    numbers: dict[str, Any] = {"n": len(first), "prompts": len(groups)}
    if model.options.loss == "pairwise":
        gaps = model.odds(first, second, batch_size).cpu()
    else:
        raw = model.scores(rows, batch_size, standard=False).cpu()
        gaps = raw[:, pairs.better] - raw[:, pairs.worse]
        standard = (raw - model.center.cpu()[:, None]) / model.scale.cpu()[:, None]
        mean, spread, _ = lower_confidence(standard, 0.0)
        worth = [value for group in groups for value in group.worth]
        numbers |= {
            "score_worth": _spearman(mean.tolist(), worth),
            "score_length": _spearman(mean.tolist(), lengths),
            "worth_length": _spearman(worth, lengths),
            "disagreement": float(spread.mean()) if model.options.members > 1 else None,
        }
    gap = gaps.double().mean(dim=0)
    clusters = [b for b, group in enumerate(groups) for _ in range(_count(group))]
    right = (gap > 0).double() + 0.5 * (gap == 0).double()
    sizes = torch.tensor(lengths)
    longer = torch.sign(sizes[pairs.better] - sizes[pairs.worse]).double() / 2 + 0.5
    interval = cluster_bootstrap(right.numpy(), clusters)
    return {
        "preference": {
            **numbers,
            "accuracy": interval.value,
            "ci_low": interval.ci_low,
            "ci_high": interval.ci_high,
            "longer": float(longer.mean()),
            **_calibration(gap),
        }
    }


def answer_length(model: PreferenceRewardModel, rows: Sequence[Any]) -> list[float]:
    """Number of real steps of every answer."""
    found: list[float] = []
    for start in range(0, len(rows), 64):
        mask = model.adapter.collate(rows[start : start + 64]).mask
        found += [float(n) for n in mask.sum(dim=1)]
    return found


def _calibration(gap: Tensor) -> dict[str, float | None]:
    """Both orders of every pair, so that the label is not always 1."""
    chance = torch.sigmoid(torch.cat([gap, -gap])).numpy()
    label = np.concatenate([np.ones(len(gap)), np.zeros(len(gap))])
    return {
        "brier": brier(chance, label),
        "ece": expected_calibration_error(chance, label),
        "auc": auc(chance, label),
    }


def _count(group: Ranked) -> int:
    return sum(a > b for a in group.worth for b in group.worth)


def _spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    if len(set(first)) < 2 or len(set(second)) < 2:
        return None
    value = float(spearmanr(first, second).statistic)
    return value if math.isfinite(value) else None
