"""Rows, facts and judges without a model for the feedback tests."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from mmalign.feedback.facts import Fact
from mmalign.types import Row, Segment

KINDS = {"o": "object", "a": "attribute", "r": "relation"}


class WordExtractor:
    """Every word ``o:x``, ``a:x`` or ``r:x`` is a fact of that type."""

    def extract(self, text: str) -> list[list[Fact]]:
        """One sentence: the facts of its words."""
        words = [word for word in text.split() if ":" in word]
        return [[Fact(KINDS[word[0]], (word[2:],), word) for word in words]]


class CountingJudge:
    """True unless the fact's name stands in ``row.meta["false"]``; names with "?" cannot be judged."""

    name = "counting"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def verify(self, row: Row, facts: Sequence[Fact]) -> list[int]:
        """One label per fact."""
        self.asked += [fact.text for fact in facts]
        false = row.meta.get("false", ())
        return [0 if "?" in fact.text else (-1 if fact.text in false else 1) for fact in facts]


def row(name: str, *texts: str, color: int = 0, false: Sequence[str] = ()) -> Row:
    """An answered row whose segments are ``texts``, two steps each, with a small picture."""
    segments, at = [], 0
    for k, text in enumerate(texts):
        segments.append(Segment(2 * k, 2 * k + 2, text, at, at + len(text)))
        at += len(text) + 1
    image = Image.new("RGB", (4, 4), (color, 0, 0))
    steps = list(range(2 * len(texts) + 1))
    return Row(
        name,
        "describe",
        (image,),
        " ".join(texts),
        steps,
        tuple(segments),
        meta={"false": list(false)},
    )
