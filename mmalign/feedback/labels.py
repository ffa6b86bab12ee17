"""From judged facts to one label per segment and type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mmalign.feedback.facts import Extractor, facts_of
from mmalign.protocols import Judge
from mmalign.types import Row

__all__ = ["FACT_TYPES", "JudgedFact", "judge_row", "label_rows", "type_labels"]

FACT_TYPES = ("object", "attribute", "relation")
"""The feedback types that are asked about by default."""


@dataclass(frozen=True, slots=True)
class JudgedFact:
    """A fact of one segment with the judge's label -1, 0 or +1."""

    type: str
    text: str
    label: int


def type_labels(facts: Sequence[JudgedFact], types: Sequence[str] = FACT_TYPES) -> dict[str, int]:
    """Label per type: -1 if any fact is false, +1 if all judged facts are true, 0 if none was judged."""
    result = {}
    for kind in types:
        labels = [fact.label for fact in facts if fact.type == kind and fact.label]
        result[kind] = 0 if not labels else (-1 if -1 in labels else 1)
    return result


def judge_row(
    row: Row, judge: Judge, extractor: Extractor, types: Sequence[str] = FACT_TYPES
) -> tuple[Row, list[list[JudgedFact]]]:
    """Label one row's segments; a fact said twice in the answer is asked once.

    A judge with a method ``segment_labels(row, index) -> labels | None`` (human labels) is asked for
    whole segments instead of facts; ``None`` leaves the segment unlabelled.

    Returns:
        The row with ``segment.labels`` and, per segment, its judged facts.
    """
    direct = getattr(judge, "segment_labels", None)
    if direct is not None:
        found: list[Mapping[str, int] | None] = [direct(row, k) for k in range(len(row.segments))]
        segments = [
            replace(s, labels=dict(labels or {})) for s, labels in zip(row.segments, found, strict=True)
        ]
        return replace(row, segments=tuple(segments)), [[] for _ in segments]
    facts = [
        [f for f in items if f.type in types] for items in facts_of(extractor, [s.text for s in row.segments])
    ]
    distinct: dict[tuple[str, Any], Any] = {(f.type, f.key): f for items in facts for f in items}
    answers = judge.verify(row, list(distinct.values())) if distinct else []
    verdict = dict(zip(distinct, answers, strict=True))
    judged = [[JudgedFact(f.type, f.text, verdict[(f.type, f.key)]) for f in items] for items in facts]
    segments = [
        replace(segment, labels=type_labels(items, types))
        for segment, items in zip(row.segments, judged, strict=True)
    ]
    return replace(row, segments=tuple(segments)), judged


def label_rows(
    rows: Sequence[Row], judge: Judge, extractor: Extractor, types: Sequence[str] = FACT_TYPES
) -> list[Row]:
    """Label every segment of every row, nothing written to disk."""
    return [judge_row(row, judge, extractor, types)[0] for row in rows]
