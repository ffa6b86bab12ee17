"""Prompts of the drawings world: what is asked for, in the words of the scenes world, and who may train on it."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

import numpy as np

from mmalign.errors import UserError, nearest
from mmalign.rng import numpy_generator
from mmalign.worlds.scenes.scene import SPLITS
from mmalign.worlds.scenes.words import NUMBERS, PLURALS, RELATIONS, SINGULARS

__all__ = [
    "CLASSES",
    "COLORS",
    "MAX_WORDS",
    "PROMPT_KINDS",
    "THINGS",
    "WORDS",
    "Wish",
    "draw_wish",
    "pairs",
    "read_prompt",
    "wishes",
]

CLASSES = ("circle", "square", "triangle", "cross")
"""The shape classes that are drawn: the four of the scenes world that 12 pixels keep apart."""
COLORS = ("red", "green", "blue", "yellow")
"""The colours that are drawn."""
THINGS = tuple((color, cls) for color in COLORS for cls in CLASSES)
"""Every bound object (colour, class)."""
PROMPT_KINDS = ("one", "and", "relation", "count")
"""One object; two joined by "and"; two in a relation; two or three alike."""
KIND_SHARES = (0.1, 0.3, 0.4, 0.2)
"""How often each kind is drawn, in training and in evaluation."""
MAX_WORDS = 8
"""Words of the longest prompt, "a red circle left of a blue square"."""
WORDS = (
    *("a", "and", "of", "left", "right", "above", "below", "two", "three"),
    *COLORS,
    *CLASSES,
    *(PLURALS[c] for c in CLASSES),
)
"""Every word of a prompt, each once."""
_SHARE_VALIDATION, _SHARE_TEST = 18, 24


@dataclass(frozen=True, slots=True)
class Wish:
    """What a prompt asks for: bound objects (colour, class) and, between two of them, a relation.

    ``things`` has one entry per object ("two red circles" has two equal ones); ``relation`` is "" or one of the scenes
    world's, from the first object to the second.
    """

    things: tuple[tuple[str, str], ...]
    relation: str = ""

    @property
    def kind(self) -> str:
        """One of ``PROMPT_KINDS``."""
        if self.relation:
            return "relation"
        if len(self.things) == 1:
            return "one"
        return "count" if len(set(self.things)) == 1 else "and"

    @property
    def text(self) -> str:
        """The prompt."""
        (color, cls), *rest = self.things
        if self.kind == "count":
            return f"{NUMBERS[len(rest)]} {color} {PLURALS[cls]}"
        first = f"a {color} {cls}"
        if not rest:
            return first
        return f"{first} {self.relation or 'and'} a {rest[0][0]} {rest[0][1]}"


def _thing(words: list[str]) -> tuple[str, str] | None:
    return (words[1], words[2]) if words[:1] == ["a"] and tuple(words[1:]) in THINGS else None


def read_prompt(text: str) -> Wish:
    """The wish behind a prompt: the inverse of ``Wish.text``.

    Raises:
        UserError: when the prompt is not one of this world's.
    """
    words = str(text).lower().split()
    if len(words) == 3 and words[0] in NUMBERS[1:3]:
        thing = (words[1], SINGULARS.get(words[2], ""))
        if thing in THINGS:
            return Wish((thing,) * (NUMBERS.index(words[0]) + 1))
    first, last = _thing(words[:3]), _thing(words[-3:])
    middle = " ".join(words[3:-3])
    if first and len(words) == 3:
        return Wish((first,))
    if first and last and first != last and middle in ("and", *RELATIONS):
        return Wish((first, last), "" if middle == "and" else middle)
    raise UserError(
        f'prompt "{text}" is none of the drawings world\'s, such as "a red circle left of a blue square" or '
        '"two green crosses"'
    )


@functools.cache
def pairs(split: str) -> tuple[tuple[tuple[str, str], tuple[str, str]], ...]:
    """The unordered pairs of different objects of a split: 78 train, 18 validation, 24 test, none shared.

    Raises:
        UserError: when ``split`` is not train, validation or test.
    """
    if split not in SPLITS:
        raise UserError(f'split "{split}" is not one of {", ".join(SPLITS)}{nearest(split, SPLITS)}')
    every = list(itertools.combinations(THINGS, 2))
    order = [every[i] for i in numpy_generator(0, "drawings", "pairs").permutation(len(every))]
    held, test = _SHARE_VALIDATION + _SHARE_TEST, _SHARE_TEST
    parts = {"test": order[:test], "validation": order[test:held], "train": order[held:]}
    return tuple(parts[split])


def wishes(split: str, kind: str) -> list[Wish]:
    """Every wish of a kind in a split; "one" and "count" are the same in all splits, pairs of objects are not.

    Raises:
        UserError: when ``split`` or ``kind`` is unknown.
    """
    if kind not in PROMPT_KINDS:
        raise UserError(
            f'prompt kind "{kind}" is not one of {", ".join(PROMPT_KINDS)}{nearest(kind, PROMPT_KINDS)}'
        )
    ordered = [order for a, b in pairs(split) for order in ((a, b), (b, a))]
    if kind == "one":
        return [Wish((thing,)) for thing in THINGS]
    if kind == "count":
        return [Wish((thing,) * n) for n in (2, 3) for thing in THINGS]
    if kind == "and":
        return [Wish(order) for order in ordered]
    return [Wish(order, relation) for order in ordered for relation in RELATIONS]


def draw_wish(split: str, rng: np.random.Generator, kind: str = "") -> Wish:
    """Draw a wish of a split, of one ``kind`` or of a kind drawn by ``KIND_SHARES``."""
    kind = kind or PROMPT_KINDS[int(rng.choice(len(PROMPT_KINDS), p=KIND_SHARES))]
    options = wishes(split, kind)
    return options[int(rng.integers(len(options)))]
