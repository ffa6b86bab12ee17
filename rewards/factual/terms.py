"""The symbolic correctness bonus: what the known truth says of an answer, without any model."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mmalign.errors import UserError
from mmalign.feedback.facts import Extractor, facts_of
from mmalign.protocols import Judge
from mmalign.rewards.placing import last_steps, place
from mmalign.types import Rollout, Row, StepReward

__all__ = ["CorrectChoice", "CorrectFacts", "choice_score"]


class CorrectChoice:
    """Pay the answer to a multiple-choice or yes/no question, on its last real step.

    ``bonus * c``: ``c`` is 1 when the answer begins with or states the right letter; for the truth "no" it is 0.5
    for a "no" and -0.5 for a "yes"; 0 otherwise.

    *Reference:* Sun et al., Factually Augmented RLHF (2023, arXiv:2309.14525), its released reward.
    *Differs from paper:* the truth is the row's ``label``, not a caption type.

    Args:
        bonus: value of a right answer (LLaVA-RLHF: 2).
        key: column with the truth: a letter, ``yes`` or ``no``; rows without it get 0.
    """

    def __init__(self, bonus: float = 2.0, key: str = "label") -> None:
        self.bonus, self.key = bonus, key

    def __call__(self, rollout: Rollout) -> StepReward:
        """Return the bonus on the last real step of every answer."""
        return _at_end("correct", rollout, [self.bonus * self._score(row) for row in rollout.rows])

    def _score(self, row: Row) -> float:
        truth = row.meta.get(self.key)
        if truth is None:
            return 0.0
        if not isinstance(truth, str):
            raise UserError(f"row {row.id}: {self.key!r} must be a letter, 'yes' or 'no', got {truth!r}")
        return choice_score(str(row.completion), truth)


class CorrectFacts:
    """Pay the share of right facts less that of wrong ones, as the judge knows them, on the last real step.

    ``bonus * (n_true - n_false) / (n_true + n_false)`` over the distinct facts of ``types`` that the answer states;
    0 when it states none that can be judged.  This is the open-ended counterpart of a right choice: with ``types``
    object it asks of a caption what a yes/no question about each object would.

    Args:
        bonus: value of an answer whose facts are all right.
        judge: knows the truth.
        extractor: reads the facts.
        types: which facts count.
    """

    def __init__(
        self, bonus: float, judge: Judge, extractor: Extractor, types: Sequence[str] = ("object",)
    ) -> None:
        self.bonus, self.judge, self.extractor, self.types = bonus, judge, extractor, tuple(types)

    def __call__(self, rollout: Rollout) -> StepReward:
        """Return the bonus on the last real step of every answer."""
        return _at_end("correct", rollout, [self.bonus * self._score(row) for row in rollout.rows])

    def _score(self, row: Row) -> float:
        texts = [segment.text for segment in row.segments] or [str(row.completion)]
        stated = {
            (f.type, f.key): f
            for facts in facts_of(self.extractor, texts)
            for f in facts
            if f.type in self.types
        }
        labels = self.judge.verify(row, list(stated.values())) if stated else []
        judged = [label for label in labels if label]
        return sum(judged) / len(judged) if judged else 0.0


def choice_score(answer: str, truth: str) -> float:
    """``c`` of one answer: see :class:`CorrectChoice`.

    Args:
        answer: what the policy said.
        truth: a letter, ``yes`` or ``no``.
    """
    words = re.findall(r"[a-z]+", answer.lower())
    first = words[0] if words else ""
    wanted = truth.strip().lower()
    if wanted == "no":
        return 0.5 if first == "no" else -0.5 if first == "yes" else 0.0
    if wanted == "yes":
        return 0.0
    begins = first == wanted
    states = re.search(rf"\b(answer|option|choice)\s+(is\s+)?\(?{re.escape(wanted)}\b", answer.lower())
    return 1.0 if begins or states else 0.0


def _at_end(name: str, rollout: Rollout, values: Sequence[float]) -> StepReward:
    entries = [
        (b, t, v) for b, (t, v) in enumerate(zip(last_steps(rollout.mask), values, strict=True)) if t >= 0
    ]
    placed = place(rollout.mask, entries)
    return StepReward(placed, {name: placed})
