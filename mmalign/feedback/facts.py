"""Atomic facts and who reads them out of a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

__all__ = ["Extractor", "Fact", "SceneExtractor", "facts_of"]


@dataclass(frozen=True, slots=True)
class Fact:
    """One statement that is true or false of a picture.

    Args:
        type: ``object``, ``attribute`` or ``relation`` (or any other feedback type).
        key: canonical content; two facts with one type and key are the same fact.
        text: the statement in words.
        ask: the yes/no question; made from ``text`` where empty.
    """

    type: str
    key: tuple[str, ...]
    text: str = ""
    ask: str = ""

    def question(self) -> str:
        """The yes/no question whose answer "yes" means that the fact holds."""
        return self.ask or f'Is this statement true of the picture: "{self.text or " ".join(self.key)}"?'


@runtime_checkable
class Extractor(Protocol):
    """Reads atomic facts out of a text, sentence by sentence."""

    def extract(self, text: str) -> list[list[Any]]:
        """One list of facts (``type``, ``key``, ``text``, ``question()``) per sentence of ``text``."""
        ...


class SceneExtractor:
    """The exact extractor of the scenes world: its captions have a closed grammar.

    Results are kept in memory, since a policy says the same sentences again and again.
    """

    def __init__(self) -> None:
        self._known: dict[str, list[list[Any]]] = {}

    def extract(self, text: str) -> list[list[Any]]:
        """One list of ``mmalign.worlds.scenes.Fact`` per sentence; a malformed sentence has no facts."""
        if text not in self._known:
            from mmalign.worlds.scenes import parse

            if len(self._known) > 100_000:
                self._known.clear()
            self._known[text] = [list(sentence.facts) for sentence in parse(text)]
        return self._known[text]

    def well_formed(self, text: str) -> bool:
        """True when every sentence of ``text`` belongs to the caption grammar."""
        from mmalign.worlds.scenes import parse

        sentences = parse(text)
        return bool(sentences) and all(sentence.well_formed for sentence in sentences)


def facts_of(extractor: Extractor, texts: Sequence[str]) -> list[list[Any]]:
    """Facts per segment, each segment's text read by itself (or together by ``extract_segments``).

    Args:
        extractor: one with a method ``extract_segments(texts)`` sees the whole answer at once, which an
            extractor that resolves "it" needs; others get one text at a time.
        texts: the segments of one answer, in order.
    """
    if not texts:
        return []
    together = getattr(extractor, "extract_segments", None)
    if together is not None:
        return list(together(list(texts)))
    return [[fact for sentence in extractor.extract(text) for fact in sentence] for text in texts]
