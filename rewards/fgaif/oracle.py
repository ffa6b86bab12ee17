"""A judge asked directly in the place of the reward models: the upper bound of the labels."""

from __future__ import annotations

from collections.abc import Sequence

from mmalign.feedback.facts import Extractor
from mmalign.feedback.labels import label_rows
from mmalign.protocols import Judge
from mmalign.rewards.fgaif.reward import fact_keys
from mmalign.rewards.shaping import Scores, Shaping, shape
from mmalign.types import Rollout, Row, StepReward

__all__ = ["OracleReward"]


class OracleReward:
    """Score every segment with a judge's labels; shaped exactly as ``FGAIFReward``.

    Args:
        judge: any judge; a world's oracle makes this the upper bound of what labels can give.
        extractor: reads the facts that the judge verifies.
        shaping: weights, length mode, repeats, placement (shared with ``FGAIFReward``).
    """

    def __init__(self, judge: Judge, extractor: Extractor, shaping: Shaping | None = None) -> None:
        self.judge = judge
        self.extractor = extractor
        self.shaping = shaping or Shaping()

    def __call__(self, rollout: Rollout) -> StepReward:
        """Return the dense reward with one part per type and ``repeat``."""
        return shape(
            rollout, self.scores(rollout.rows), self.shaping, fact_keys(rollout.rows, self.extractor)
        )

    def scores(self, rows: Sequence[Row]) -> Scores:
        """Row, segment, type -> -1 or +1, ``None`` where not applicable."""
        types = tuple(self.shaping.weights)
        labelled = label_rows(rows, self.judge, self.extractor, types)
        return [
            [
                {kind: float(s.labels[kind]) if s.labels.get(kind) else None for kind in types}
                for s in row.segments
            ]
            for row in labelled
        ]
