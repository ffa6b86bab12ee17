"""Simple rule rewards: one value per answer, on its last real step."""

from __future__ import annotations

import re
from collections.abc import Callable

from mmalign.errors import UserError
from mmalign.rewards.placing import last_steps, lengths, place
from mmalign.types import Rollout, Row, StepReward

__all__ = ["ExactMatch", "Length", "RegexMatch"]


class RegexMatch:
    """Pay ``value`` when the answer's text matches ``pattern`` anywhere.

    Raises:
        UserError: when the pattern is not a regular expression.
    """

    def __init__(self, pattern: str, value: float = 1.0) -> None:
        try:
            self.pattern = re.compile(pattern)
        except re.error as error:
            raise UserError(f"pattern: {pattern!r} is not a regular expression ({error}).") from error
        self.value = value

    def __call__(self, rollout: Rollout) -> StepReward:
        """Return ``value`` on the last step of every answer that matches."""
        return _per_answer(
            "regex", rollout, lambda row, _: self.value * bool(self.pattern.search(str(row.completion)))
        )


class ExactMatch:
    """Pay ``value`` when the answer equals ``row.meta[key]``, spaces and case aside.

    Raises:
        UserError: when a row lacks the key.
    """

    def __init__(self, key: str = "label", value: float = 1.0) -> None:
        self.key = key
        self.value = value

    def __call__(self, rollout: Rollout) -> StepReward:
        """Return ``value`` on the last step of every right answer."""
        return _per_answer("exact_match", rollout, self._score)

    def _score(self, row: Row, n: int) -> float:
        if self.key not in row.meta:
            raise UserError(
                f"row {row.id!r}: meta has no {self.key!r}, which exact_match compares answers with."
            )
        same = _plain(str(row.completion)) == _plain(str(row.meta[self.key]))
        return self.value * same


class Length:
    """Pay 1 for an answer of ``target`` steps, falling to 0 at distance ``width`` on either side."""

    def __init__(self, target: int, width: int) -> None:
        if width <= 0:
            raise UserError(f"width: expected a number of steps above 0, found {width}.")
        self.target = target
        self.width = width

    def __call__(self, rollout: Rollout) -> StepReward:
        """Return the closeness to the wanted length on the last real step."""
        return _per_answer("length", rollout, lambda _, n: max(0.0, 1.0 - abs(n - self.target) / self.width))


def _per_answer(name: str, rollout: Rollout, score: Callable[[Row, int], float]) -> StepReward:
    steps = zip(rollout.rows, lengths(rollout.mask), last_steps(rollout.mask), strict=True)
    entries = [(b, t, float(score(row, n))) for b, (row, n, t) in enumerate(steps) if t >= 0]
    values = place(rollout.mask, entries)
    return StepReward(values, {name: values})


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).strip(" .!?")
