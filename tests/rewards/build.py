"""Small rollouts for the reward tests."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mmalign.types import Rollout, Row, Segment

TYPES = ("object", "attribute", "relation")


def rollout(
    answers: Sequence[Sequence[tuple[str, int]]],
    *,
    finished: Sequence[bool] | None = None,
    extra: int = 1,
    pad: int = 2,
) -> Rollout:
    """Answers as (text, number of steps) per segment, ``extra`` steps (the end token) after the last."""
    rows = []
    counts = []
    for b, segments in enumerate(answers):
        start, spans = 0, []
        for text, n in segments:
            spans.append(Segment(start, start + n, text))
            start += n
        counts.append(start + extra)
        text = " ".join(text for text, _ in segments)
        rows.append(Row(f"r{b}", "describe", completion=text, segments=tuple(spans)))
    width = max(counts) + pad
    mask = torch.arange(width)[None, :] < torch.tensor(counts)[:, None]
    done = torch.tensor(list(finished) if finished is not None else [True] * len(rows))
    return Rollout(tuple(rows), torch.zeros(len(rows), width), mask, done, torch.arange(len(rows)))
