"""A frozen lake as a toy world: answers are paths over a 3 x 3 grid, shown by walkers who know no better.

Squares are the words ``a`` to ``i``, row by row; ``c`` and ``g`` are holes, ``i`` is the goal.  The prompt is the
square to start from, the answer the squares walked over.  Demonstrations are random walks that happen to arrive, so
that they wander; a policy that loses its way cannot be right later, which makes errors add up along an answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mmalign.rng import derive_seed, numpy_generator
from mmalign.stats.intervals import t_interval, wilson
from mmalign.testing.toy_model import MEDIA_SIZE, VOCABULARY
from mmalign.types import Row

__all__ = ["BASES", "LakeTask", "arrives", "rows"]

BASES = ("toy:1", "toy:2")
"""The start models: fresh networks, as in the toy world."""

_SIDE, _FIRST, _LONGEST = 3, 3, 7
_HOLES, _GOAL = (2, 6), 8


def rows(split: str, n: int, seed: int, kind: str = "caption") -> list[Row]:
    """``n`` rows of a split; ``prompt`` rows have no answer.

    The last step of a demonstration is the goal; it takes at most 7.
    """
    rng = numpy_generator(derive_seed(seed, "toy-lake", split) % 2**31, "walks")
    made = []
    for k in range(n):
        start = int(rng.choice([0, 1, 3, 4, 5, 7]))
        media = rng.normal(0.0, 0.05, MEDIA_SIZE).astype(np.float32)
        path = _walk(start, rng)
        text = " ".join(VOCABULARY[_FIRST + square] for square in path)
        answer = text if kind in ("caption", "preference") else None
        row = Row(id=f"lake-{split}-{k}", prompt=[_FIRST + start], media=(media,), completion=answer)
        made.append(replace(row, meta={"start": start}))
    return made


def arrives(start: int, answer: str) -> bool:
    """Whether every move of ``answer`` goes to a neighbouring square that is no hole, and the last one to the goal."""
    here = start
    for word in answer.split():
        square = VOCABULARY.index(word) - _FIRST if word in VOCABULARY else -1
        if here == _GOAL or square not in _moves(here):
            return False
        here = square
    return here == _GOAL


class LakeTask:
    """Share of paths that arrive, and how many moves those take."""

    name = "toy-lake"
    version = "1"
    parser = "path.v1"

    def __init__(self, *, split: str = "test", n: int = 64, seed: int = 0) -> None:
        self.split, self.n, self.seed = split, n, seed

    def rows(self) -> list[Row]:
        """The squares to start from."""
        return rows(self.split, self.n, self.seed, "prompt")

    def score(self, row: Row, output: Any) -> Mapping[str, Any]:
        """1 for a path that arrives, with its number of moves."""
        text = str(output).strip()
        scores = {"success": float(arrives(row.meta["start"], text)), "moves": float(len(text.split()))}
        return {"parsed": text, "parse_ok": bool(text), "scores": scores}

    def metrics(self, samples: Sequence[Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
        """Success with a Wilson interval; moves of the paths that arrive with a t interval."""
        good = [sample["scores"]["moves"] for sample in samples if sample["scores"]["success"]]
        return {
            "success": {**wilson(len(good), len(samples)).as_dict(), "higher_is_better": True},
            "moves": {**t_interval(good).as_dict(), "higher_is_better": False},
        }


def _walk(start: int, rng: np.random.Generator) -> list[int]:
    while True:
        path: list[int] = []
        here = start
        while here != _GOAL and len(path) < _LONGEST:
            here = int(rng.choice(_moves(here)))
            path.append(here)
        if here == _GOAL:
            return path


def _moves(square: int) -> list[int]:
    """Neighbouring squares without holes."""
    y, x = divmod(square, _SIDE)
    around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
    inside = [b * _SIDE + a for b, a in around if 0 <= a < _SIDE and 0 <= b < _SIDE]
    return [place for place in inside if place not in _HOLES]
