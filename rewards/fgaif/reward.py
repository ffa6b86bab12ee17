"""The reward models' verdict as a dense reward."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal

from torch import Tensor

from mmalign.errors import UserError
from mmalign.rewards.fgaif.model import SegmentRewardModel
from mmalign.rewards.shaping import Scores, Shaping, shape
from mmalign.rewards.terms import FactReader
from mmalign.types import Rollout, Row, StepReward

__all__ = ["FGAIFReward", "fact_keys", "scores_from_probabilities"]


class FGAIFReward:
    """Score every segment with the reward models and pay it on the segment's last step.

    Args:
        model: trained reward models.
        shaping: weights, length mode, repeats, placement (shared with ``OracleReward``).
        mode: ``class`` pays the most likely class, -1/0/+1, as the reference code; ``expected`` pays
            ``p(+1) - p(-1)``, and exactly 0 where "not applicable" is the most likely class.
        extractor: where given, a type of which the segment states no fact gets exactly 0 whatever the
            models say, and repetitions in other words are found.
        batch_size: model rows per pass.

    Raises:
        UserError: when a weight names a type that the model does not have.
    """

    def __init__(
        self,
        model: SegmentRewardModel,
        shaping: Shaping | None = None,
        mode: Literal["class", "expected"] = "expected",
        extractor: FactReader | None = None,
        batch_size: int = 64,
    ) -> None:
        self.model = model
        self.shaping = shaping or Shaping()
        unknown = [name for name in self.shaping.weights if name not in model.types]
        if unknown:
            raise UserError(f"weights: {unknown} name no reward model; there are {list(model.types)}.")
        if mode not in ("class", "expected"):
            raise UserError(f"mode: {mode!r} is neither 'class' nor 'expected'.")
        self.mode = mode
        self.extractor = extractor
        self.batch_size = batch_size

    def __call__(self, rollout: Rollout) -> StepReward:
        """Return the dense reward with one part per type and ``repeat``."""
        facts = fact_keys(rollout.rows, self.extractor) if self.extractor is not None else None
        return shape(rollout, self.scores(rollout.rows, facts), self.shaping, facts)

    def scores(
        self, rows: Sequence[Row], facts: Sequence[Sequence[frozenset[Hashable]]] | None = None
    ) -> Scores:
        """Row, segment, type -> score in [-1, 1], ``None`` where not applicable."""
        probabilities = self.model.predict(rows, self.batch_size)
        flat = {
            kind: scores_from_probabilities(probabilities[kind], self.mode) for kind in self.shaping.weights
        }
        result = []
        position = 0
        for b, row in enumerate(rows):
            items = []
            for k in range(len(row.segments)):
                said = {key[0] for key in facts[b][k]} if facts is not None else set(flat)  # type: ignore[index]
                items.append({kind: flat[kind][position] if kind in said else None for kind in flat})
                position += 1
            result.append(items)
        return result


def scores_from_probabilities(
    probabilities: Tensor, mode: Literal["class", "expected"]
) -> list[float | None]:
    """Turn class probabilities into scores; ``None`` where "not applicable" is the most likely class.

    Args:
        probabilities: ``[N, 3]``, classes -1, 0, +1.
        mode: ``class`` or ``expected``.
    """
    result: list[float | None] = []
    for bad, none, good in probabilities.tolist():
        if none >= max(bad, good):
            result.append(None)
        elif mode == "class":
            result.append(1.0 if good >= bad else -1.0)
        else:
            result.append(good - bad)
    return result


def fact_keys(rows: Sequence[Row], extractor: FactReader) -> list[list[frozenset[Hashable]]]:
    """Row, segment -> the ``(type, key)`` pairs of the facts the segment states."""
    return [
        [
            frozenset((fact.type, fact.key) for facts in extractor.extract(segment.text) for fact in facts)
            for segment in row.segments
        ]
        for row in rows
    ]
