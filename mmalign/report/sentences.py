"""Answers with every sentence marked: which facts are false, of which type, which could not be checked."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmalign.report.headline import Section

__all__ = ["Answer", "Exhibit", "Piece", "answer_of", "exhibits", "fact_types", "media_uri", "text_of"]

_MAX_SIDE = 480
_AS_IT_IS = {".wav": "audio/wav", ".gif": "image/gif"}


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of an answer: ``state`` is false, true, unchecked, malformed or plain (no sentence)."""

    text: str
    state: str
    types: tuple[str, ...] = ()
    false_facts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer in pieces with its count of false sentences."""

    pieces: tuple[Piece, ...]
    n_false: int
    n_sentences: int


@dataclass(frozen=True, slots=True)
class Exhibit:
    """One row shown to the reader: its media as data URIs, the prompt, the answers before and after."""

    id: str
    images: tuple[str, ...]
    sounds: tuple[str, ...]
    prompt: str
    before: Answer
    after: Answer | None


def exhibits(section: Section, count: int = 8) -> list[Exhibit]:
    """Return the first ``count`` rows of a section that keep media: the first, not the best."""
    later = {s["id"]: s for s in section.after.samples} if section.after else {}
    shown: list[Exhibit] = []
    for sample in section.before.samples:
        if len(shown) == count:
            break
        if not isinstance(sample.get("parsed"), list) or not sample.get("media"):
            continue
        if section.after is not None and sample["id"] not in later:
            continue
        uris = [media_uri(section.before.folder / path) for path in sample["media"]]
        known = [uri for uri in uris if uri]
        other = later.get(sample["id"])
        shown.append(
            Exhibit(
                id=str(sample["id"]),
                images=tuple(uri for uri in known if uri.startswith("data:image")),
                sounds=tuple(uri for uri in known if uri.startswith("data:audio")),
                prompt=text_of(sample.get("prompt")),
                before=answer_of(sample),
                after=answer_of(other) if other else None,
            )
        )
    return shown


def answer_of(sample: Mapping[str, Any]) -> Answer:
    """Cut a sample's output at its parsed sentences."""
    text = text_of(sample.get("output"))
    if "error" in sample:
        return Answer((Piece(f"(failed: {sample['error']})", "plain"),), 0, 0)
    pieces, at = [], 0
    for sentence in sample.get("parsed") or ():
        start, end = int(sentence["start"]), int(sentence["end"])
        if text[at:start].strip():
            pieces.append(Piece(text[at:start], "plain"))
        pieces.append(_piece(text[start:end], sentence))
        at = end
    if text[at:].strip() or not pieces:
        pieces.append(Piece(text[at:] or "(empty answer)", "plain"))
    return Answer(tuple(pieces), sum(p.state == "false" for p in pieces), len(sample.get("parsed") or ()))


def _piece(text: str, sentence: Mapping[str, Any]) -> Piece:
    labels = sentence.get("labels") or {}
    wrong = tuple(kind for kind, label in labels.items() if label < 0)
    facts = tuple(
        f"{fact['type']}: {fact['text']}" for fact in sentence.get("facts") or () if fact.get("label", 0) < 0
    )
    if wrong:
        return Piece(text, "false", wrong, facts or wrong)
    if not sentence.get("well_formed", True):
        return Piece(text, "malformed")
    return Piece(text, "true" if any(label > 0 for label in labels.values()) else "unchecked")


def fact_types(section: Section) -> list[str]:
    """Return the fact types that occur in a section's parsed answers, in their own order."""
    kinds: dict[str, None] = {}
    for sample in section.before.samples[:50]:
        parsed = sample.get("parsed")
        for sentence in parsed if isinstance(parsed, list) else ():
            kinds.update(dict.fromkeys((sentence.get("labels") or {}) if isinstance(sentence, dict) else ()))
    return list(kinds)


def media_uri(path: Path) -> str | None:
    """Return a picture (made small where it is large), a clip or a sound as a data URI; None when it is missing."""
    if not path.is_file():
        return None
    if path.suffix in _AS_IT_IS:
        return f"data:{_AS_IT_IS[path.suffix]};base64," + base64.b64encode(path.read_bytes()).decode()
    from PIL import Image

    with Image.open(path) as image:
        if max(image.size) > _MAX_SIDE:
            small = image.convert("RGB")
            small.thumbnail((_MAX_SIDE, _MAX_SIDE))
            buffer = io.BytesIO()
            small.save(buffer, "JPEG", quality=85)
            return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def text_of(value: Any) -> str:
    """Return a prompt or an output as text: messages are joined, files named."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return text_of(value.get("content", value.get("text", value.get("file", ""))))
    if isinstance(value, Sequence):
        return " ".join(part for part in map(text_of, value) if part)
    return "" if value is None else str(value)
