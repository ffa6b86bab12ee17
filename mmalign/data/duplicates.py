"""Finding the same row twice: exact copies, copies up to case and punctuation, and prompts in two files."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmalign.data.content import media_digest
from mmalign.types import Row

__all__ = ["RowKeys", "Seen", "normalised", "row_keys", "text_of"]

_NOT_WORDS = re.compile(r"[\W_]+", re.UNICODE)
Key = bytes


@dataclass(frozen=True, slots=True)
class RowKeys:
    """16-byte hashes of one row.

    ``exact``: everything as written.  ``near``: everything after :func:`normalised`, media by content.  ``prompt``:
    the normalised prompt with its media.  ``media``: each medium's content.  ``chosen`` and ``rejected``: the
    normalised candidates with their media (empty where there is none).
    """

    exact: Key
    near: Key
    prompt: Key
    media: tuple[Key, ...]
    chosen: Key
    rejected: Key


@dataclass
class Seen:
    """Which row had a key first; ``twice`` lists ``(row, earlier row)`` in the order of the file."""

    first: dict[Key, int] = field(default_factory=dict)
    twice: list[tuple[int, int]] = field(default_factory=list)

    def add(self, key: Key, row: int) -> int | None:
        """Note that ``row`` has ``key``; return the row that had it before."""
        before = self.first.setdefault(key, row)
        if before == row:
            return None
        self.twice.append((row, before))
        return before


def normalised(text: str) -> str:
    """Text without what near copies differ in: Unicode form (NFKC), case, punctuation, white space."""
    return " ".join(_NOT_WORDS.sub(" ", unicodedata.normalize("NFKC", text).casefold()).split())


def text_of(value: Any) -> str:
    """The words of a prompt or an answer: text, messages, or anything else as it prints."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, Sequence) and value and all(isinstance(item, Mapping) for item in value):
        return "\n".join(_content(message.get("content", "")) for message in value)
    return str(value)


def row_keys(row: Row, digests: dict[str, Key]) -> RowKeys:
    """The hashes of a row.

    Args:
        row: the row.
        digests: content hashes of files read before, by path; filled here.
    """
    media = tuple(_digest(item, digests) for item in row.media)
    sides = [tuple(_digest(item, digests) for item in own) for own in (row.chosen_media, row.rejected_media)]
    answers = [text_of(answer) for answer in (row.completion, row.chosen, row.rejected)]
    prompt, every = text_of(row.prompt), (*media, *sides[0], *sides[1])
    label = repr(row.meta.get("label"))
    pair = [
        _hash(normalised(answer), own) if answer or own else b""
        for answer, own in zip(answers[1:], sides, strict=True)
    ]
    return RowKeys(
        exact=_hash("\0".join([repr(row.prompt), *answers, label]), every),
        near=_hash("\0".join([normalised(text) for text in (prompt, *answers)] + [label]), every),
        prompt=_hash(normalised(prompt), media),
        media=every,
        chosen=pair[0],
        rejected=pair[1],
    )


def _content(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(str(part.get("text", "")) for part in content or [] if isinstance(part, Mapping))


def _digest(item: Any, digests: dict[str, Key]) -> Key:
    if not isinstance(item, str):
        return bytes.fromhex(media_digest(item))[:16]
    if item not in digests:
        digests[item] = bytes.fromhex(media_digest(item))[:16]
    return digests[item]


def _hash(text: str, media: Sequence[Key]) -> Key:
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass"))
    for key in media:
        digest.update(b"\0" + key)
    return digest.digest()[:16]
