"""Where a reward may stand: on the last step of a complete segment, or on the last real step."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from mmalign.types import Rollout, Segment

__all__ = ["complete_segments", "last_steps", "lengths", "place", "same_text"]

SENTENCE_END = frozenset(".!?;,\u2026\u3002\uff01\uff1f")


def lengths(mask: Tensor) -> list[int]:
    """Number of real steps of every sample of ``mask`` ``[B, T]``."""
    return [int(n) for n in mask.sum(dim=1).tolist()]


def last_steps(mask: Tensor) -> list[int]:
    """Index of the last real step of every sample of ``mask`` ``[B, T]``; -1 for an empty answer."""
    return [n - 1 for n in lengths(mask)]


def same_text(text: str) -> str:
    """The form under which two segments count as the same text: lower case, single spaces, no end mark."""
    return " ".join(text.lower().split()).rstrip("".join(SENTENCE_END) + " ")


def complete_segments(rollout: Rollout) -> list[list[bool]]:
    """Say of every segment whether the policy completed it.

    Only the last segment of an unfinished answer can be partial: when its ``kind`` is ``"partial"``
    or when it has text that carries no end mark.  Spans are checked here, so that no reward is lost.

    Raises:
        ValueError: when a span is empty, reversed or reaches past the last real step.
    """
    result = []
    for row, n, finished in zip(rollout.rows, lengths(rollout.mask), rollout.finished.tolist(), strict=True):
        flags = []
        for index, segment in enumerate(row.segments):
            if not 0 <= segment.start < segment.end <= n:
                span = f"[{segment.start}, {segment.end})"
                raise ValueError(
                    f"row {row.id!r}, segment {index}: span {span} is not a non-empty part of 0..{n}"
                )
            last = index == len(row.segments) - 1
            flags.append(not (last and not finished and _cut_off(segment)))
        result.append(flags)
    return result


def _cut_off(segment: Segment) -> bool:
    text = segment.text.rstrip()
    return segment.kind == "partial" or bool(text and text[-1] not in SENTENCE_END)


def place(mask: Tensor, entries: Iterable[tuple[int, int, float]]) -> Tensor:
    """Add ``(row, step, value)`` entries into a zero tensor of the shape of ``mask`` ``[B, T]``.

    Entries on one step add up; none is overwritten.

    Raises:
        ValueError: when an entry falls on padding.
    """
    out = torch.zeros(mask.shape, dtype=torch.float32)
    kept = [entry for entry in entries if entry[2] != 0.0]
    if not kept:
        return out.to(mask.device)
    rows = torch.tensor([entry[0] for entry in kept])
    steps = torch.tensor([entry[1] for entry in kept])
    if bool((steps < 0).any()) or bool((~mask.cpu()[rows, steps]).any()):
        raise ValueError("a reward fell on padding: its step lies outside the sample's mask")
    values = torch.tensor([entry[2] for entry in kept], dtype=torch.float32)
    return out.index_put_((rows, steps), values, accumulate=True).to(mask.device)
