"""Labels by people, read from JSON lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmalign.data.jsonl import iter_jsonl
from mmalign.errors import UserError
from mmalign.types import Row

__all__ = ["HumanJudge"]


class HumanJudge:
    """Look labels up by row id and segment number.

    The file holds one object a line: ``{"id": row id, "segment": number from 0, "labels": {type: -1|0|1}}``;
    single facts may be given too: ``{"id": ..., "fact": text, "label": -1|0|1}``.  A segment without a
    line stays unlabelled, and reward models leave it out.

    Raises:
        UserError: when the file is missing, a line lacks a field, a label is not -1, 0 or 1, or one
            segment is labelled twice and differently.
    """

    name = "human"

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise UserError(f"{path}: no such file of human labels.")
        self.version = "1"
        self._segments: dict[tuple[str, int], dict[str, int]] = {}
        self._facts: dict[tuple[str, str], int] = {}
        for number, record in enumerate(iter_jsonl(self.path), start=1):
            self._read(record, f"{self.path}:{number}")

    def segment_labels(self, row: Row, index: int) -> Mapping[str, int] | None:
        """Labels of a whole segment, or ``None`` where nobody labelled it."""
        return self._segments.get((row.id, index))

    def verify(self, row: Row, facts: Sequence[Any]) -> list[int]:
        """Labels of single facts; 0 where nobody labelled one."""
        return [self._facts.get((row.id, fact.text), 0) for fact in facts]

    def _read(self, record: Mapping[str, Any], where: str) -> None:
        if "id" not in record:
            raise UserError(f'{where}: expected a key "id", found {sorted(record)}.')
        name = str(record["id"])
        if "fact" in record:
            self._facts[(name, str(record["fact"]))] = _label(record.get("label"), where)
            return
        if not isinstance(record.get("segment"), int) or not isinstance(record.get("labels"), Mapping):
            raise UserError(f'{where}: expected "segment" (a number from 0) and "labels" (type: -1, 0 or 1).')
        labels = {str(kind): _label(label, where) for kind, label in record["labels"].items()}
        key = (name, record["segment"])
        if self._segments.get(key, labels) != labels:
            raise UserError(f"{where}: segment {key[1]} of {name!r} was labelled before, and differently.")
        self._segments[key] = labels


def _label(value: Any, where: str) -> int:
    if isinstance(value, bool) or value not in (-1, 0, 1):
        raise UserError(f"{where}: label {value!r} is not -1, 0 or 1.")
    return int(value)
