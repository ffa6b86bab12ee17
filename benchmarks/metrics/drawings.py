"""Metrics of drawn pictures: what two detectors see against what was asked for.

Recall and precision count bound objects (colour and class together); ``relation`` divides by the prompts that ask for
one, ``exact/<kind>`` by the prompts of that kind.  ``agreement`` is the share of cells in which both detectors see the
same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmalign.stats.composite import Composite, f1, mean, ratio
from mmalign.stats.intervals import cluster_bootstrap
from mmalign.worlds.drawings import PROMPT_KINDS, Reading, Wish, agreement, judge

__all__ = ["DRAWING_HEADLINE", "DRAWING_METRICS", "drawing_scores", "spread"]

_SUFFIX = {"template": "", "network": "_network"}
_CELLS = 4


def drawing_scores(wish: Wish, readings: Mapping[str, Reading]) -> dict[str, int]:
    """Return the counts of one picture: those of each detector, the prompt's kind, and cells that agree."""
    scores = {"agreeing": agreement(readings["template"], readings["network"]), "cells": _CELLS}
    for detector, suffix in _SUFFIX.items():
        counts = judge(wish, readings[detector])
        counts["spurious"] = counts["found"] - counts["matched"]
        counts["any_extra"] = int(counts["extra"] > 0)
        counts["any_unreadable"] = int(counts["unreadable"] > 0)
        for kind in PROMPT_KINDS:
            counts[f"exact_{kind}"] = counts["exact"] * (wish.kind == kind)
        scores |= {f"{name}{suffix}": int(value) for name, value in counts.items()}
    # reports show the first scores
    first = {name: scores[name] for name in ("exact", "any_extra", "matched", "wanted")}
    return first | scores | {f"asked_{kind}": int(wish.kind == kind) for kind in PROMPT_KINDS}


def _of(suffix: str, ending: str) -> dict[str, Composite]:
    def column(name: str) -> str:
        return name + suffix

    matched, wanted, found, spurious = map(column, ("matched", "wanted", "found", "spurious"))
    metrics = {
        "exact": mean(column("exact"), True),
        **{f"exact/{kind}": ratio(column(f"exact_{kind}"), f"asked_{kind}", True) for kind in PROMPT_KINDS},
        "bound/recall": ratio(matched, wanted, True),
        "bound/precision": ratio(matched, found, True),
        "bound/f1": f1(matched, spurious, matched, wanted),
        "color": ratio(column("color"), wanted, True),
        "shape": ratio(column("shape"), wanted, True),
        "count": mean(column("count"), True),
        "relation": ratio(column("relation"), column("relation_asked"), True),
        "extra": mean(column("any_extra"), False),
        "unreadable": mean(column("any_unreadable"), False),
    }
    return {name + ending: composite for name, composite in metrics.items()}


DRAWING_METRICS: Mapping[str, Composite] = {
    **_of("", ""),
    **_of("_network", "/network"),
    "agreement": ratio("agreeing", "cells"),
}
"""Every metric of drawings by name."""
DRAWING_HEADLINE = (
    "exact",
    "exact/network",
    *(f"exact/{kind}" for kind in PROMPT_KINDS),
    "bound/f1",
    "relation",
    "extra",
    "unreadable",
    "agreement",
    "diversity",
)
"""What a reader wants first; ``diversity`` is there where a prompt was drawn more than once."""


def spread(groups: Sequence[Sequence[bytes]]) -> dict[str, Any]:
    """Mean L2 distance, in 0..255 per channel, between thumbnails of one prompt (root mean square over their pixels).

    Args:
        groups: per prompt two or more thumbnails, each the bytes of one picture.
    """
    totals = []
    for thumbnails in groups:
        pixels = np.stack([np.frombuffer(t, np.uint8) for t in thumbnails]).astype(np.float64)
        apart = np.sqrt(((pixels[:, None] - pixels[None]) ** 2).mean(-1))
        n = len(thumbnails)
        totals.append(apart.sum() / (n * (n - 1)))
    values = np.asarray(totals).reshape(-1, 1)
    names = [str(k) for k in range(len(groups))]
    found = cluster_bootstrap(values, names, lambda t: t[:, 0] / t[:, -1], draws=2000, seed=0)
    return {**found.as_dict(), "higher_is_better": None}
