"""Segments as training examples: which text is scored, under which labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mmalign.errors import UserError
from mmalign.types import Row

__all__ = ["IGNORE", "SegmentRows", "label_means", "segment_labels", "segment_rows"]

IGNORE = -100
"""Stands for the label of a segment whose type nobody has labelled."""


@dataclass(frozen=True, slots=True)
class SegmentRows:
    """One row per distinct (media, segment text): ``rows[index[k]]`` is segment ``k``'s row."""

    rows: list[Row]
    index: list[int]


def segment_rows(rows: Sequence[Row], template: str, answer: str) -> SegmentRows:
    """Turn every segment of every row into a verification row, identical ones only once.

    Args:
        rows: rows with media and segments.
        template: prompt with ``{segment}`` in the place of the segment's text.
        answer: the fixed completion; the state before its first step is what a head reads.

    Raises:
        UserError: when the template has no ``{segment}``.
    """
    if "{segment}" not in template:
        raise UserError(f"template: expected '{{segment}}' in the text, found {template!r}.")
    unique: dict[tuple[Any, ...], int] = {}
    result: list[Row] = []
    index: list[int] = []
    for row in rows:
        media = tuple(item if isinstance(item, str) else id(item) for item in row.media)
        for segment in row.segments:
            text = segment.text.strip()
            key = (media, text)
            if key not in unique:
                unique[key] = len(result)
                prompt = template.replace("{segment}", text)
                result.append(replace(row, prompt=prompt, completion=answer, steps=None, segments=()))
            index.append(unique[key])
    return SegmentRows(result, index)


def segment_labels(rows: Sequence[Row], kind: str) -> Tensor:
    """Label -1, 0 or +1 of every segment in order ``[N]``, ``IGNORE`` where the type is unlabelled.

    Raises:
        UserError: when a label is not -1, 0 or +1.
    """
    targets = []
    for row in rows:
        for number, segment in enumerate(row.segments):
            label = segment.labels.get(kind)
            if label not in (-1, 0, 1, None):
                raise UserError(
                    f"row {row.id!r}, segment {number}: label {label!r} of {kind!r} is not -1, 0 or 1."
                )
            targets.append(IGNORE if label is None else label)
    return torch.tensor(targets, dtype=torch.long)


def label_means(rows: Sequence[Row], types: Sequence[str]) -> Mapping[str, float]:
    """Mean label over the applicable segments of each type (0 where there are none)."""
    means = {}
    for kind in types:
        labels = [s.labels[kind] for row in rows for s in row.segments if s.labels.get(kind)]
        means[kind] = sum(labels) / len(labels) if labels else 0.0
    return means
