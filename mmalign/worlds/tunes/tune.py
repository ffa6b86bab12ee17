"""What a piece is: six attributes that captions speak of, two hidden ones that users may like, and who may see it."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mmalign.errors import UserError, nearest
from mmalign.rng import derive_seed, numpy_generator

__all__ = ["ATTRIBUTES", "COMBINATIONS", "SPLITS", "Tune", "combinations_of", "generate", "tune_at"]

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "timbre": ("flute", "reed", "strings", "bell", "guitar"),
    "tempo": ("slow", "medium", "fast"),
    "mode": ("major", "minor"),
    "register": ("low", "middle", "high"),
    "dynamics": ("soft", "loud", "growing"),
    "contour": ("rising", "falling", "arching"),
}
"""Name -> values of everything a caption may mention."""
COMBINATIONS = tuple(itertools.product(*ATTRIBUTES.values()))
"""All 810 combinations of values, in the order of ``ATTRIBUTES``."""
SPLITS = ("train", "validation", "test", "every")
"""Combinations of the first three are disjoint; ``every`` draws from all of them (for evaluators only)."""
_TEST, _VALIDATION = 120, 80


@dataclass(frozen=True, slots=True)
class Tune:
    """One piece.

    Args:
        id: number of the stream that all its random details come from.
        timbre: instrument.
        tempo: notes per second: slow 2, medium 4, fast 8.
        mode: major or minor third of the accompanying chord and the scale.
        register: octave of the melody.
        dynamics: level: soft, loud, or growing from one to the other.
        contour: course of the melody over the piece.
        looseness: hidden, 0 (every note on its beat) to 1.
        tilt: hidden, -1 (dull) to 1 (bright).
    """

    id: int
    timbre: str
    tempo: str
    mode: str
    register: str
    dynamics: str
    contour: str
    looseness: float
    tilt: float

    @property
    def attributes(self) -> dict[str, str]:
        """Name -> value of the six attributes."""
        return {name: str(getattr(self, name)) for name in ATTRIBUTES}

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for ``Row.meta``."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Tune:
        """The inverse of :meth:`to_dict`."""
        return cls(**data)


@functools.cache
def _shuffled() -> tuple[int, ...]:
    return tuple(int(i) for i in numpy_generator(0, "tunes", "combinations").permutation(len(COMBINATIONS)))


def combinations_of(split: str) -> tuple[tuple[str, ...], ...]:
    """The combinations of values that a split may contain: 120 of test, 80 of validation, 610 of training.

    Raises:
        UserError: when ``split`` is unknown.
    """
    if split not in SPLITS:
        raise UserError(f'split "{split}" is not one of {", ".join(SPLITS)}{nearest(split, SPLITS)}')
    if split == "every":
        return COMBINATIONS
    order, edge = _shuffled(), _TEST + _VALIDATION
    places = {"test": order[:_TEST], "validation": order[_TEST:edge], "train": order[edge:]}[split]
    return tuple(COMBINATIONS[i] for i in places)


def generate(seed: int, split: str) -> Tune:
    """Draw one piece of a split.

    Raises:
        UserError: when ``split`` is unknown.
    """
    allowed = combinations_of(split)
    name = derive_seed(seed, "tunes", split)
    rng = np.random.default_rng(name)
    timbre, tempo, mode, register, dynamics, contour = allowed[int(rng.integers(len(allowed)))]
    looseness = float(rng.random())
    tilt = float(rng.uniform(-1, 1))
    return Tune(name, timbre, tempo, mode, register, dynamics, contour, looseness, tilt)


def tune_at(split: str, seed: int, index: int, stream: str = "rows") -> Tune:
    """The piece ``index`` of a stream: the same for every kind of row and whatever the number of rows is."""
    return generate(derive_seed(seed, "tunes", stream, index), split)
