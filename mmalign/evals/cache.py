"""Answers of deterministic requests, kept by content so that nothing is generated twice."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmalign.data.content import media_digest
from mmalign.data.jsonl import JsonlWriter, dumps, iter_jsonl
from mmalign.types import Row

__all__ = ["ResponseCache", "opened", "row_digest"]


def row_digest(row: Row) -> str:
    """Return a SHA-256 of what the model is shown (prompt and media) and of what is expected of it."""
    shown = {
        "prompt": row.prompt,
        "media": [media_digest(item) for item in row.media],
        "meta": dict(row.meta),
    }
    return hashlib.sha256(dumps(shown).encode()).hexdigest()


class ResponseCache:
    """An append-only file of answers; only greedy requests of a fingerprinted model enter it.

    The key covers the model's fingerprint, the row's prompt and media and the generation settings.
    """

    def __init__(self, folder: Path) -> None:
        """Open (or make) the cache in ``folder``."""
        self.path = Path(folder) / "responses.jsonl"
        self._writer = JsonlWriter(self.path)
        self._known = {record["key"]: record["answer"] for record in iter_jsonl(self.path)}

    @staticmethod
    def key(row: Row, model: Mapping[str, Any], generation: Mapping[str, Any]) -> str | None:
        """Return the request's key, or None where caching would be wrong (sampled, unknown weights)."""
        if generation.get("temperature") != 0 or not model.get("sha256"):
            return None
        request = {
            "model": model["sha256"],
            "prompt": row.prompt,
            "media": [media_digest(item) for item in row.media],
            "max_steps": generation.get("max_steps"),
            "options": generation.get("options"),
        }
        return hashlib.sha256(dumps(request).encode()).hexdigest()

    def get(self, key: str | None) -> Mapping[str, Any] | None:
        """Return the stored answer record or None."""
        return self._known.get(key) if key else None

    def put(self, key: str | None, answer: Mapping[str, Any]) -> None:
        """Store an answer record under ``key``; nothing happens for a None key."""
        if key and key not in self._known:
            self._known[key] = dict(answer)
            self._writer.write({"key": key, "answer": answer})

    def close(self) -> None:
        """Flush and close the file."""
        self._writer.close()


@contextmanager
def opened(folder: Path | None) -> Iterator[ResponseCache | None]:
    """Yield the cache in ``folder`` and close it afterwards; None without a folder."""
    if folder is None:
        yield None
        return
    cache = ResponseCache(folder)
    try:
        yield cache
    finally:
        cache.close()
