"""Reward terms that look at the shape of an answer and not at its truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

from mmalign.errors import UserError
from mmalign.rewards.placing import complete_segments, last_steps, lengths, place
from mmalign.rewards.shaping import repeated_segments
from mmalign.types import Rollout, StepReward

__all__ = ["FactBonus", "LengthTerm", "Malformed", "SegmentBonus", "TooShort", "Unfinished"]

WellFormed = Callable[[str], bool]


class FactReader(Protocol):
    """Anything that reads the atomic facts of a text (see ``mmalign.feedback.facts``)."""

    def extract(self, text: str) -> list[list[Any]]:
        """One list of facts per sentence of ``text``."""
        ...


class Unfinished:
    """Cost of an answer that ran into the step limit, on its last real step."""

    def __init__(self, penalty: float = 0.5) -> None:
        self.penalty = penalty

    def __call__(self, rollout: Rollout) -> StepReward:
        """Return ``-penalty`` on the last step of every unfinished answer."""
        ends = last_steps(rollout.mask)
        finished = rollout.finished.tolist()
        entries = [(b, t, -self.penalty) for b, t in enumerate(ends) if not finished[b] and t >= 0]
        return _one("unfinished", rollout, entries)


class TooShort:
    """Cost of an answer with fewer than ``min_segments`` complete segments, on its last real step."""

    def __init__(self, min_segments: int = 1, penalty: float = 1.0) -> None:
        self.min_segments = min_segments
        self.penalty = penalty

    def __call__(self, rollout: Rollout) -> StepReward:
        """Return ``-penalty`` on the last step of every answer that is too short."""
        ends = last_steps(rollout.mask)
        counts = [sum(flags) for flags in complete_segments(rollout)]
        entries = [
            (b, t, -self.penalty) for b, t in enumerate(ends) if counts[b] < self.min_segments and t >= 0
        ]
        return _one("too_short", rollout, entries)


class Malformed:
    """Cost of a complete segment that ``well_formed`` refuses, on the segment's last step."""

    def __init__(self, well_formed: WellFormed, penalty: float = 0.5) -> None:
        self.well_formed = well_formed
        self.penalty = penalty

    def __call__(self, rollout: Rollout) -> StepReward:
        """Return ``-penalty`` on every malformed segment."""
        complete = complete_segments(rollout)
        entries = [
            (b, segment.end - 1, -self.penalty)
            for b, row in enumerate(rollout.rows)
            for k, segment in enumerate(row.segments)
            if complete[b][k] and not self.well_formed(segment.text)
        ]
        return _one("malformed", rollout, entries)


class SegmentBonus:
    """Pay for every new, complete, well-formed segment, so that an answer is not shortened to be safe.

    Args:
        value: one number, or type -> number: a segment gets the number of the last type in this
            mapping of which it states a fact (``{"object": .8, "relation": .6}`` pays .6 for a
            sentence that states a relation); a mapping needs ``extractor``.
        well_formed: refuses segments that earn nothing.
        extractor: reads facts, to find types and repetitions in other words.

    Raises:
        UserError: when ``value`` is a mapping and there is no extractor.
    """

    def __init__(
        self,
        value: float | Mapping[str, float] = 0.5,
        well_formed: WellFormed | None = None,
        extractor: FactReader | None = None,
    ) -> None:
        if isinstance(value, Mapping) and extractor is None:
            raise UserError("segment_bonus: values per type need an extractor that tells the types apart.")
        self.value = value
        self.well_formed = well_formed
        self.extractor = extractor

    def __call__(self, rollout: Rollout) -> StepReward:
        """Return the bonus on the last step of every segment that earns it."""
        facts = [[self._facts(segment.text) for segment in row.segments] for row in rollout.rows]
        keys = [[frozenset((f.type, f.key) for f in items) for items in row] for row in facts]
        complete = complete_segments(rollout)
        repeats = repeated_segments(rollout, keys)
        entries = []
        for b, row in enumerate(rollout.rows):
            for k, segment in enumerate(row.segments):
                formed = self.well_formed is None or self.well_formed(segment.text)
                if complete[b][k] and not repeats[b][k] and formed:
                    entries.append((b, segment.end - 1, self._bonus(facts[b][k])))
        return _one("segment_bonus", rollout, entries)

    def _facts(self, text: str) -> list[Any]:
        if self.extractor is None:
            return []
        return [fact for sentence in self.extractor.extract(text) for fact in sentence]

    def _bonus(self, facts: Sequence[Any]) -> float:
        if not isinstance(self.value, Mapping):
            return float(self.value)
        said = {fact.type for fact in facts}
        paid = [value for name, value in self.value.items() if name in said]
        return paid[-1] if paid else 0.0


class FactBonus:
    """Pay for every fact that an answer states for the first time, whatever its truth.

    Feedback labels a segment as a whole, so a segment earns no more for a second true attribute and risks
    more: under feedback alone a policy learns to name fewer.  This pays each fact, so that detail is kept
    where the policy is sure enough of it.
    """

    def __init__(self, value: float, extractor: FactReader) -> None:
        self.value = value
        self.extractor = extractor

    def __call__(self, rollout: Rollout) -> StepReward:
        """Return ``value`` times the number of new facts on the last step of every complete segment."""
        complete = complete_segments(rollout)
        entries = []
        for b, row in enumerate(rollout.rows):
            known: set[tuple[str, Any]] = set()
            for k, segment in enumerate(row.segments):
                stated = {(f.type, f.key) for facts in self.extractor.extract(segment.text) for f in facts}
                if complete[b][k] and stated - known:
                    entries.append((b, segment.end - 1, self.value * len(stated - known)))
                known |= stated
        return _one("fact_bonus", rollout, entries)


class LengthTerm:
    """``-coef * |n - target|`` on the last real step, or ``coef * n`` without a target.

    Args:
        coef: reward per unit; positive with a target pulls towards it, negative without one is brevity.
        target: wanted length, or ``None``.
        unit: ``steps`` (tokens, frames) or ``segments`` (complete ones).
    """

    def __init__(
        self, coef: float, target: float | None = None, unit: Literal["steps", "segments"] = "steps"
    ) -> None:
        self.coef = coef
        self.target = target
        self.unit = unit

    def __call__(self, rollout: Rollout) -> StepReward:
        """Return the length term on the last real step of every answer."""
        counts = lengths(rollout.mask)
        if self.unit == "segments":
            counts = [sum(flags) for flags in complete_segments(rollout)]
        pay = [self.coef * n if self.target is None else -self.coef * abs(n - self.target) for n in counts]
        entries = [(b, t, pay[b]) for b, t in enumerate(last_steps(rollout.mask)) if t >= 0]
        return _one("length", rollout, entries)


def _one(name: str, rollout: Rollout, entries: Sequence[tuple[int, int, float]]) -> StepReward:
    values = place(rollout.mask, entries)
    return StepReward(values, {name: values})
