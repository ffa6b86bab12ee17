"""Collect feedback on sampled answers, record by record, so that a kill costs one record at most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mmalign.data.jsonl import JsonlWriter, iter_jsonl
from mmalign.errors import UserError
from mmalign.feedback.cache import CachedJudge
from mmalign.feedback.content import store_media
from mmalign.feedback.facts import Extractor
from mmalign.feedback.labels import FACT_TYPES, JudgedFact, judge_row
from mmalign.protocols import Judge
from mmalign.rng import numpy_generator
from mmalign.types import Row, Segment

__all__ = ["collect", "read_feedback", "shuffle_labels"]

SCHEMA = 1


def collect(
    rows: Sequence[Row],
    judge: Judge,
    extractor: Extractor,
    path: Path,
    cache_dir: Path,
    shuffle_labels_seed: int | None = None,
    types: Sequence[str] = FACT_TYPES,
) -> list[Row]:
    """Label every segment of every row and write one JSON line per row, flushed as it goes.

    Called again with the same rows it carries on behind the last whole record.  With
    ``shuffle_labels_seed`` the true labels go to ``<stem>.unshuffled.jsonl`` and ``path`` gets the
    control: the same records with each type's labels permuted among its applicable segments.

    Args:
        rows: answered rows with segments.
        judge: who verifies facts (or labels segments); wrapped in a cache.
        extractor: reads facts out of segments.
        path: the feedback file.
        cache_dir: where the judge's answers are kept.
        shuffle_labels_seed: seed of the shuffled-label control.
        types: feedback types to ask about.

    Returns:
        The labelled rows, with their media as given.

    Raises:
        UserError: when ``path`` already holds feedback on other rows.
    """
    path = Path(path)
    shuffled = shuffle_labels_seed is not None
    target = path.with_name(f"{path.stem}.unshuffled{path.suffix}") if shuffled else path
    done = _resume(rows, target)
    labelled = [_with_labels(row, record) for row, record in zip(rows, done, strict=False)]
    cached = CachedJudge(judge, cache_dir)
    writer = JsonlWriter(target)
    try:
        for row in rows[len(done) :]:
            answered, facts = judge_row(row, _asked(cached), extractor, types)
            record = _record(answered, facts, judge, path)
            writer.write(record)
            labelled.append(answered)
    finally:
        writer.close()
        cached.close()
    if shuffle_labels_seed is None:
        return labelled
    labelled = shuffle_labels(labelled, shuffle_labels_seed)
    _rewrite(path, target, labelled, shuffle_labels_seed)
    return labelled


def read_feedback(path: Path) -> list[Row]:
    """Read a feedback file: rows with completion, steps, segments and labels; media are file paths.

    Raises:
        UserError: when the file is missing or a record lacks a field.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such feedback file; collect feedback first.")
    rows = []
    for number, record in enumerate(iter_jsonl(path), start=1):
        try:
            media = tuple(_media_path(path, name) for name in record["media"])
            rows.append(
                Row(
                    id=record["id"],
                    prompt=record["prompt"],
                    media=media,
                    completion=record["response"],
                    steps=record.get("steps"),
                    segments=tuple(_segment(item) for item in record["segments"]),
                    meta=record.get("meta", {}),
                )
            )
        except KeyError as error:
            raise UserError(f"{path}:{number}: the record has no {error}; is this a feedback file?") from None
    return rows


def shuffle_labels(rows: Sequence[Row], seed: int) -> list[Row]:
    """Permute each type's labels among the segments to which the type applies (label -1 or +1).

    Counts per type, and which segments are not applicable, stay as they were; only which applicable
    segment is true is lost.
    """
    labels = [[dict(segment.labels) for segment in row.segments] for row in rows]
    types = sorted({kind for row in labels for items in row for kind in items})
    for kind in types:
        places = [(b, k) for b, row in enumerate(labels) for k, items in enumerate(row) if items.get(kind)]
        order = numpy_generator(seed, "shuffle", kind).permutation(len(places))
        values = [labels[b][k][kind] for b, k in places]
        for (b, k), source in zip(places, order, strict=True):
            labels[b][k][kind] = values[source]
    return [
        replace(
            row,
            segments=tuple(
                replace(s, labels=items) for s, items in zip(row.segments, labels[b], strict=True)
            ),
        )
        for b, row in enumerate(rows)
    ]


def _asked(cached: CachedJudge) -> Judge:
    """Judges that label whole segments bypass the fact cache."""
    return cached.judge if hasattr(cached.judge, "segment_labels") else cached


def _resume(rows: Sequence[Row], path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    JsonlWriter(path).close()
    done = list(iter_jsonl(path))
    same = len(done) <= len(rows) and all(
        record.get("id") == row.id and record.get("response") == row.completion
        for record, row in zip(done, rows, strict=False)
    )
    if not same:
        raise UserError(
            f"{path}: holds feedback on other answers; delete it or choose another output folder."
        )
    return done


def _record(row: Row, facts: Sequence[Sequence[JudgedFact]], judge: Judge, path: Path) -> dict[str, Any]:
    segments = [
        {**_plain_segment(segment), "facts": [asdict(fact) for fact in items]}
        for segment, items in zip(row.segments, facts, strict=True)
    ]
    return {
        "schema": SCHEMA,
        "id": row.id,
        "prompt": row.prompt,
        "response": row.completion,
        "steps": row.steps,
        "segments": segments,
        "judge": {"name": judge.name, "version": str(getattr(judge, "version", "1"))},
        "media": store_media(row.media, path.parent / "media"),
        "meta": dict(row.meta),
    }


def _plain_segment(segment: Segment) -> dict[str, Any]:
    return {
        "start": segment.start,
        "end": segment.end,
        "char_start": segment.char_start,
        "char_end": segment.char_end,
        "text": segment.text,
        "kind": segment.kind,
        "labels": dict(segment.labels),
    }


def _segment(item: Mapping[str, Any]) -> Segment:
    return Segment(
        start=item["start"],
        end=item["end"],
        text=item.get("text", ""),
        char_start=item.get("char_start", 0),
        char_end=item.get("char_end", 0),
        kind=item.get("kind", "sentence"),
        labels=item["labels"],
    )


def _with_labels(row: Row, record: Mapping[str, Any]) -> Row:
    return replace(row, segments=tuple(_segment(item) for item in record["segments"]))


def _media_path(path: Path, name: str) -> str:
    here = path.parent / name
    return str(here) if not Path(name).is_absolute() and here.exists() else name


def _rewrite(path: Path, source: Path, rows: Sequence[Row], seed: int) -> None:
    """Write the control: the records of ``source`` with the labels of ``rows``, in one rename."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    with JsonlWriter(temporary) as writer:
        for record, row in zip(iter_jsonl(source), rows, strict=True):
            segments = [
                {**item, "labels": dict(segment.labels)}
                for item, segment in zip(record["segments"], row.segments, strict=True)
            ]
            writer.write({**record, "segments": segments, "labels_shuffled_with_seed": seed})
    temporary.replace(path)
