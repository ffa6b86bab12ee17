"""How far can a judge be trusted?  Agreement with an oracle or with people, per feedback type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmalign.errors import UserError
from mmalign.feedback.labels import FACT_TYPES
from mmalign.stats.agreement import accuracy_report, kappa
from mmalign.types import Row

__all__ = ["judge_agreement", "label_counts"]


def label_counts(rows: Sequence[Row], types: Sequence[str] = FACT_TYPES) -> dict[str, dict[str, int]]:
    """Per type, how many segments are labelled -1 (``false``), 0 (``none``), +1 (``true``), or not at all."""
    names = {-1: "false", 0: "none", 1: "true", None: "unlabelled"}
    counts = {kind: dict.fromkeys(names.values(), 0) for kind in types}
    for row in rows:
        for segment in row.segments:
            for kind in types:
                counts[kind][names[segment.labels.get(kind)]] += 1
    return counts


def judge_agreement(
    judged: Sequence[Row], reference: Sequence[Row], types: Sequence[str] = FACT_TYPES
) -> dict[str, dict[str, Any]]:
    """Compare a judge's segment labels with reference labels of the same rows.

    Args:
        judged: rows labelled by the judge.
        reference: the same rows, in the same order, labelled by an oracle or by people.
        types: feedback types.

    Returns:
        Per type: ``n`` (segments labelled by both), ``accuracy`` with Wilson ``ci_low``/``ci_high``,
        ``majority`` (always answering the commonest reference label), ``kappa`` over three classes;
        ``n_applicable`` and ``accuracy_applicable`` where the reference says -1 or +1; ``confusion``
        as ``"reference>judge" -> count``.

    Raises:
        UserError: when the rows differ.
    """
    if [row.id for row in judged] != [row.id for row in reference]:
        raise UserError("judge agreement: the two files hold different rows (compare the ids, in order).")
    result: dict[str, dict[str, Any]] = {}
    for kind in types:
        pairs = [
            (mine.labels[kind], true.labels[kind])
            for a, b in zip(judged, reference, strict=True)
            for mine, true in zip(a.segments, b.segments, strict=True)
            if kind in mine.labels and kind in true.labels
        ]
        result[kind] = _agreement(pairs)
    return result


def _agreement(pairs: Sequence[tuple[int, int]]) -> dict[str, Any]:
    mine, true = [a for a, _ in pairs], [b for _, b in pairs]
    report = accuracy_report(mine, true)
    apply = [(a, b) for a, b in pairs if b]
    confusion: dict[str, int] = {}
    for a, b in pairs:
        confusion[f"{b:+d}>{a:+d}"] = confusion.get(f"{b:+d}>{a:+d}", 0) + 1
    return {
        "n": report.n,
        "accuracy": report.accuracy.value,
        "ci_low": report.accuracy.ci_low,
        "ci_high": report.accuracy.ci_high,
        "majority": report.majority,
        "kappa": kappa(mine, true),
        "n_applicable": len(apply),
        "accuracy_applicable": sum(a == b for a, b in apply) / len(apply) if apply else None,
        "confusion": dict(sorted(confusion.items())),
    }
