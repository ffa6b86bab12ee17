"""Simulated users with a taste of their own: they like bright pieces with a clear pulse, whatever the caption says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mmalign.errors import UserError
from mmalign.rng import numpy_generator
from mmalign.types import Row
from mmalign.worlds.tunes.hearing import heard
from mmalign.worlds.tunes.signals import brightness, pulse_clarity

__all__ = ["TunesUsers", "mean_taste", "traits"]

_BRIGHT, _CLEAR = (1.76, 0.34), (0.44, 0.20)
"""Mean and spread of brightness (octaves above 110 Hz) and pulse clarity over training pieces."""
_WEIGHTS = (1.0, 0.7)


def traits(answers: Sequence[Any]) -> list[tuple[float, float]]:
    """Brightness and pulse clarity of answers, in standard deviations of training pieces."""
    bands = heard(answers)
    pairs = zip(brightness(bands), pulse_clarity(bands), strict=True)
    return [((b - _BRIGHT[0]) / _BRIGHT[1], (c - _CLEAR[0]) / _CLEAR[1]) for b, c in pairs]


def mean_taste(answers: Sequence[Any]) -> list[float]:
    """What the average user thinks of answers; no user and no reward model is told."""
    return [_WEIGHTS[0] * bright + _WEIGHTS[1] * clear for bright, clear in traits(answers)]


class TunesUsers:
    """Compares two pieces as one of many users would; which user answers depends on the seed and the row alone.

    Args:
        seed: of the users.
        spread: standard deviation of each user's weights around the mean taste.
        random: share of choices made at random.

    Raises:
        UserError: when ``random`` is no share or ``spread`` is negative.
    """

    name = "tunes-users"

    def __init__(self, seed: int = 0, spread: float = 0.3, random: float = 0.1) -> None:
        if not 0 <= random <= 1:
            raise UserError(f"random: expected a share in [0, 1], found {random}")
        if spread < 0:
            raise UserError(f"spread: expected a number that is not negative, found {spread}")
        self.seed, self.spread, self.random = seed, spread, random
        self.version = f"1-seed{seed}-spread{spread}-random{random}"

    def compare(self, row: Row, first: Any, second: Any) -> float:
        """Chance that the row's user prefers the first piece (both orders add up to 1)."""
        one, other = (self._likes(row, pair) for pair in traits([first, second]))
        if abs(one - other) < 1e-9:  # batched sums of equal pieces differ by rounding
            return 0.5
        return (1 - self.random) * float(one > other) + self.random / 2

    def choose(self, answers: Sequence[Row]) -> list[Row]:
        """Preference rows: the answers, two and two to the same prompt, with what a user chose.

        Raises:
            UserError: when two neighbours answer different prompts, or one is left over.
        """
        if len(answers) % 2:
            raise UserError(f"{len(answers)} answers; choices need two per prompt")
        found = []
        for a, b in zip(answers[::2], answers[1::2], strict=True):
            if a.prompt != b.prompt:
                raise UserError(f'rows "{a.id}" and "{b.id}" answer different prompts')
            rng = numpy_generator(self.seed, "tunes", "choice", a.id)
            first = rng.random() < self.compare(a, a.completion, b.completion)
            chosen, rejected = (a, b) if first else (b, a)
            found.append(
                replace(
                    a,
                    id=f"{a.id}:choice",
                    completion=None,
                    steps=None,
                    segments=(),
                    chosen=chosen.completion,
                    rejected=rejected.completion,
                )
            )
        return found

    def _likes(self, row: Row, pair: tuple[float, float]) -> float:
        rng = numpy_generator(self.seed, "tunes", "user", row.id)
        own = rng.normal(size=2) * self.spread
        return sum((weight + off) * trait for weight, off, trait in zip(_WEIGHTS, own, pair, strict=True))
