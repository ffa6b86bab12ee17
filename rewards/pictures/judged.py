"""A judge's opinion of a picture as a reward: a yes/no question or a grade; replies that say nothing are missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from mmalign.errors import UserError
from mmalign.protocols import Judge
from mmalign.rewards.pictures.grades import parse_grade
from mmalign.rewards.pictures.paying import filled
from mmalign.rewards.pictures.tensors import as_picture, as_tensor, prompt_text
from mmalign.types import Rollout, Row, StepReward

__all__ = ["PictureJudge"]

YES_NO = "Does the picture show this: {prompt}?"
GRADE = (
    "How well does the picture match this description: {prompt}? "
    "Reply with a number from {worst} (not at all) to {best} (perfectly), and nothing else."
)


@dataclass(frozen=True, slots=True)
class _Asked:
    """One question in the form that judges take facts in."""

    text: str

    def question(self) -> str:
        """The question itself."""
        return self.text


class PictureJudge:
    """Pay what a judge says of the picture, in [0, 1].

    ``reply: yes_no`` pays the judge's probability of yes where it has one (``hf``), else 1 for yes and 0 for no;
    "cannot be judged" is **missing**.  ``reply: grade`` pays a number or Likert word read by
    :func:`~mmalign.rewards.pictures.grades.parse_grade`; what cannot be read is missing.  A missing score takes the
    mean of its prompt's others (:func:`~mmalign.rewards.pictures.paying.filled`); the note ``judge/valid`` counts it.

    *Reference:* MJ-Bench (Chen et al. 2024, arXiv:2407.04842), judges as rewards. *Differs from its code:* a reply that
    cannot be read is missing (there ``None`` is divided, or any number in the text is taken), and all ten Likert levels
    exist.

    Args:
        judge: ``hf``, ``endpoint``, another registered judge, or a judge object.
        source: folder or name of the judge's model.
        base_url: of an endpoint.
        reply: ``yes_no`` or ``grade``.
        question: text with ``{prompt}`` (and for grades ``{worst}``, ``{best}``); a fitting one by default.
        worst: number of the worst grade.
        best: number of the best grade.

    Raises:
        UserError: for a question without ``{prompt}``, or a judge that cannot be asked for a grade.
    """

    def __init__(
        self,
        judge: str | Judge = "hf",
        source: str = "",
        base_url: str = "",
        reply: Literal["yes_no", "grade"] = "yes_no",
        question: str = "",
        worst: float = 0.0,
        best: float = 10.0,
    ) -> None:
        if reply not in ("yes_no", "grade"):
            raise UserError(f"reply: expected yes_no or grade, found {reply!r}")
        self.question = question or (YES_NO if reply == "yes_no" else GRADE)
        if "{prompt}" not in self.question:
            raise UserError(f"question: expected '{{prompt}}' in the text, found {self.question!r}")
        self.judge: Any = _made(judge, source, base_url) if isinstance(judge, str) else judge
        self.reply, self.worst, self.best = reply, worst, best
        if reply == "grade" and not hasattr(self.judge, "ask"):
            raise UserError(
                f"reply: judge {self.judge.name!r} answers yes or no alone; use yes_no, or the judge endpoint"
            )

    def opinions(self, rows: Sequence[Row], outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Scores ``[B]`` in [0, 1] and whether each was given ``[B]``, of pictures ``[B, 3, H, W]``."""
        said = [self._one(row, picture) for row, picture in zip(rows, outputs, strict=True)]
        values = torch.tensor([0.0 if value is None else value for value in said])
        return values, torch.tensor([value is not None for value in said])

    def __call__(self, rollout: Rollout) -> StepReward:
        """Return the judge's score of every answer on its last step, missing ones neutral."""
        found = [self.opinions([row], as_tensor(row)[None]) for row in rollout.rows]
        values, valid = (torch.cat(parts) for parts in zip(*found, strict=True))
        return filled("judge", values, valid, rollout)

    def _one(self, row: Row, picture: Tensor) -> float | None:
        text = self.question.replace("{worst}", f"{self.worst:g}").replace("{best}", f"{self.best:g}")
        text = text.replace("{prompt}", prompt_text(row))
        shown = replace(
            row, prompt=text, media=(as_picture(picture),), completion=None, steps=None, segments=()
        )
        if self.reply == "grade":
            return parse_grade(self.judge.ask(shown, text), self.best, self.worst)
        if hasattr(self.judge, "probabilities"):
            probability = float(self.judge.probabilities(shown, [_Asked(text)])[0])
            return probability if abs(probability - self.judge.threshold) >= self.judge.band else None
        label = self.judge.verify(shown, [_Asked(text)])[0]
        return None if label == 0 else float(label > 0)


def _made(name: str, source: str, base_url: str) -> Judge:
    from mmalign import registry

    kind = registry.load("judges", name)
    if name == "hf":
        if not source:
            raise UserError("source: the judge hf needs a model's folder or hub name")
        made: Judge = kind(source)
    elif name == "endpoint":
        made = kind(base_url, source)
    else:
        made = kind()
    return made
