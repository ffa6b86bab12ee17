"""How good a reward of videos is: agreement with true progress, on a longer stick too, and blindness to distractors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from mmalign.rewards.rapl.videos import video
from mmalign.worlds import sweep
from mmalign.worlds.sweep.data import SKILLS

__all__ = ["longer_stick", "spearman", "video_quality"]

Score = Callable[[Tensor, str], float]
"""A video ``[F, 3, H, W]`` and its task to a number."""


def spearman(scores: Sequence[float], truth: Sequence[float]) -> float:
    """Rank correlation; 0 where either does not vary."""
    from scipy.stats import spearmanr

    if len(set(scores)) < 2 or len(set(truth)) < 2:
        return 0.0
    return float(spearmanr(scores, truth).statistic)


def longer_stick(task: str, n: int, seed: int) -> list[sweep.Episode]:
    """Episodes of every skill with the long stick, which no training row has."""
    starts = sweep.starts("test", n, seed, tasks=(task,), embodiments=("long",))
    played = [sweep.play(starts, skill=skill, seed=seed + k) for k, skill in enumerate(SKILLS)]
    return [played[i % len(played)][i] for i in range(n)]


def video_quality(
    score: Score, episodes: Sequence[sweep.Episode], far: Sequence[sweep.Episode]
) -> dict[str, Any]:
    """Numbers of one reward.

    Returns:
        ``spearman`` with the true progress of ``episodes``, ``spearman_long`` of ``far``, ``distractor``: how much a
        score moves when the patches alone are drawn elsewhere, in standard deviations of the scores, and ``n``.
    """

    def scored(some: Sequence[sweep.Episode], patches: int | None = None) -> list[float]:
        return [score(video(e, patches=patches), str(e.start["task"])) for e in some]

    plain = scored(episodes)
    moved = np.array(scored(episodes, patches=1)) - np.array(plain)
    spread = float(np.std(plain))
    return {
        "spearman": spearman(plain, [sweep.progress(e) for e in episodes]),
        "spearman_long": spearman(scored(far), [sweep.progress(e) for e in far]),
        "distractor": float(np.abs(moved).mean() / spread) if spread > 0 else 0.0,
        "n": len(episodes),
    }
