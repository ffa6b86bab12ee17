"""The exact parser: caption text to sentences with their atomic facts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mmalign.worlds.scenes.facts import (
    Fact,
    attribute_fact,
    count_fact,
    object_fact,
    relation_fact,
)
from mmalign.worlds.scenes.words import (
    CLASSES,
    COLORS,
    KIND_OF_VALUE,
    NUMBERS,
    SINGULARS,
    SIZES,
    TEXTURES,
)

__all__ = ["COUNT_LEADS", "EXISTENCE_LEADS", "Sentence", "parse"]

EXISTENCE_LEADS = ("there is a", "i see a", "the picture has a")
"""The phrasings that open an existence sentence."""
COUNT_LEADS = ("there are", "i see")
"""The phrasings that open a count sentence."""

_WORD = re.compile(r"[^\W_]+|[^\w\s]|_")
_ADJECTIVES = (SIZES, TEXTURES, COLORS)


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence with its half-open character span, its facts, and whether the grammar made it.

    A malformed sentence still carries an object fact for every class it mentions.
    """

    text: str
    char_start: int
    char_end: int
    facts: tuple[Fact, ...]
    well_formed: bool


def _starts(words: Sequence[str], lead: str) -> list[str] | None:
    """The words after ``lead``, or None when the sentence does not open with it."""
    opening = lead.split()
    return list(words[len(opening) :]) if list(words[: len(opening)]) == opening else None


def _existence(words: Sequence[str]) -> list[Fact] | None:
    for lead in EXISTENCE_LEADS:
        rest = _starts(words, lead)
        if rest is None or not rest or rest[-1] not in CLASSES:
            continue
        cls, adjectives, values = rest[-1], rest[:-1], []
        for options in _ADJECTIVES:
            if adjectives and adjectives[0] in options:
                values.append(adjectives.pop(0))
        if not adjectives:
            return [object_fact(cls), *(attribute_fact(cls, v) for v in values)]
    return None


def _count(words: Sequence[str]) -> list[Fact] | None:
    for lead in COUNT_LEADS:
        rest = _starts(words, lead)
        if rest is not None and len(rest) == 2 and rest[0] in NUMBERS[1:] and rest[1] in SINGULARS:
            cls = SINGULARS[rest[1]]
            return [object_fact(cls), count_fact(cls, rest[0])]
    return None


def _statement(words: Sequence[str]) -> list[Fact] | None:
    """An attribute sentence (the A is red) or a relation sentence (the A is left of the B)."""
    if len(words) < 4 or words[0] != "the" or words[1] not in CLASSES:
        return None
    a, verb, rest = words[1], words[2], list(words[3:])
    if verb in ("is", "looks") and len(rest) == 1 and rest[0] in KIND_OF_VALUE:
        return [object_fact(a), attribute_fact(a, rest[0])]
    if verb in ("is", "lies") and len(rest) >= 3 and rest[-2] == "the" and rest[-1] in CLASSES:
        b, relation = rest[-1], " ".join(rest[:-2])
        if b != a and relation in ("left of", "right of", "above", "below"):
            return [object_fact(a), object_fact(b), relation_fact(a, relation, b)]
    return None


def _facts(words: Sequence[str]) -> list[Fact] | None:
    """The facts of one sentence given without its full stop, or None when it is malformed."""
    for rule in (_existence, _count, _statement):
        facts = rule(words)
        if facts is not None:
            return facts
    return None


def parse(text: str) -> list[Sentence]:
    """Split a text at its full stops and read the facts of every sentence.

    A last piece without a full stop is a malformed sentence.  Letter case and missing spaces before
    punctuation do not matter; character spans index ``text`` as given and include the full stop.
    """
    sentences: list[Sentence] = []
    pending: list[re.Match[str]] = []
    matches = list(_WORD.finditer(text))
    for index, match in enumerate(matches):
        pending.append(match)
        closed = match.group() == "."
        if not closed and index + 1 < len(matches):
            continue
        words = [m.group().lower() for m in pending]
        facts = _facts(words[:-1]) if closed else None
        well_formed = facts is not None
        if facts is None:
            named = (SINGULARS.get(w, w) for w in words)
            facts = [object_fact(w) for w in named if w in CLASSES]
        start, end = pending[0].start(), match.end()
        unique = tuple(dict.fromkeys(facts))
        sentences.append(Sentence(text[start:end], start, end, unique, well_formed))
        pending = []
    return sentences
