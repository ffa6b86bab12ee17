"""Answers kept by content: nothing is asked twice, in this run or after a kill."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmalign.data.jsonl import JsonlWriter, iter_jsonl
from mmalign.feedback.content import evidence_digest
from mmalign.protocols import Judge
from mmalign.types import Row

__all__ = ["AnswerCache", "CachedJudge"]


class AnswerCache:
    """A growing JSON-lines file ``answers.jsonl`` of key -> label; one process writes it.

    A torn last line (killed while writing) is cut off on opening.
    """

    def __init__(self, folder: Path) -> None:
        path = Path(folder) / "answers.jsonl"
        self._writer = JsonlWriter(path)
        self._known = {record["key"]: int(record["label"]) for record in iter_jsonl(path)}

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: str) -> int | None:
        """The label stored under ``key``, or ``None``."""
        return self._known.get(key)

    def put(self, key: str, label: int, question: str = "") -> None:
        """Store a label; flushed at once."""
        if key not in self._known:
            self._known[key] = label
            self._writer.write({"key": key, "label": label, "question": question})

    def close(self) -> None:
        """Sync and close the file."""
        self._writer.close()


class CachedJudge:
    """A judge that asks another one only what nobody has asked before.

    The key is the SHA-256 of what the judge looks at (media bytes, or ``judge.evidence(row)``), the
    fact, its question, and the judge's name and version.

    Args:
        judge: who is asked.
        folder: where ``answers.jsonl`` lies.
    """

    def __init__(self, judge: Judge, folder: Path) -> None:
        self.judge = judge
        self.name = judge.name
        self.cache = AnswerCache(folder)
        self.hits = 0
        self.asked = 0

    def verify(self, row: Row, facts: Sequence[Any]) -> list[int]:
        """One label per fact; unknown and distinct ones are asked in one call."""
        keys = self._keys(row, facts)
        fresh: dict[str, Any] = {}
        for key, fact in zip(keys, facts, strict=True):
            if self.cache.get(key) is None:
                fresh.setdefault(key, fact)
        labels: dict[str, int] = {}
        if fresh:
            answers = self.judge.verify(row, list(fresh.values()))
            labels = dict(zip(fresh, answers, strict=True))
        for key, label in labels.items():
            self.cache.put(key, label, fresh[key].question())
        self.asked += len(fresh)
        self.hits += len(facts) - len(fresh)
        return [labels[key] if key in labels else int(self.cache.get(key) or 0) for key in keys]

    def close(self) -> None:
        """Close the cache file."""
        self.cache.close()

    def _keys(self, row: Row, facts: Sequence[Any]) -> list[str]:
        seen = evidence_digest(self.judge, row)
        who = [self.judge.name, str(getattr(self.judge, "version", "1"))]
        return [
            hashlib.sha256(
                json.dumps([seen, fact.type, list(fact.key), fact.question(), *who]).encode()
            ).hexdigest()
            for fact in facts
        ]
