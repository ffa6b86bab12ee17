"""Which of the labelled answers teach: pure choices from scores, the same for every modality."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmalign.types import Row

__all__ = [
    "Item",
    "best_against_worst",
    "best_of_each",
    "data_items",
    "penalised",
    "random_of_each",
    "top_of_all",
]


@dataclass(frozen=True, slots=True)
class Item:
    """What one training example is made of.

    Args:
        answer: the answer to learn from (the chosen one of a pair).
        other: the rejected answer, or for ``superhf`` one drawn like ``answer`` but not chosen by reward.
        value: for ``nash`` the probability that ``answer`` beats its opponent's.
    """

    answer: Row
    other: Row | None = None
    value: float = 0.0


def penalised(scores: Tensor, lengths: Tensor, coef: float, kind: Literal["linear", "log"]) -> Tensor:
    """``scores - coef * length`` (or its logarithm); everything downstream sees only the result.

    RLHF Workflow's script chooses the pair by the penalised reward but calls the answer with the larger **raw**
    reward chosen, so the longer one can still win; here choice and label agree.

    Args:
        scores: ``[P, K]``.
        lengths: ``[P, K]`` real steps.
        coef: reward per step, or per nat of length.
        kind: ``linear`` or ``log``.
    """
    steps = lengths.to(scores.dtype)
    return scores - coef * (steps if kind == "linear" else steps.clamp(min=1).log())


def best_of_each(scores: Tensor) -> list[tuple[int, int]]:
    """The best answer of every prompt, the first of equals (RAFT's "local", SuperHF with k = 1).

    Args:
        scores: ``[P, K]``.

    Returns:
        one ``(prompt, answer)`` per prompt.
    """
    return list(enumerate(scores.argmax(1).tolist()))


def top_of_all(scores: Tensor, count: int) -> list[tuple[int, int]]:
    """The ``count`` best answers of the whole round, whatever their prompts (RAFT's "top").

    Scores of different prompts are compared as they are: prompts that score high for all answers crowd out the rest.
    """
    order = scores.flatten().argsort(descending=True, stable=True)[:count].tolist()
    return [divmod(place, scores.shape[1]) for place in sorted(order)]


def random_of_each(scores: Tensor, rng: torch.Generator) -> list[tuple[int, int]]:
    """One answer per prompt at random: the control of equal size that knows no reward."""
    return list(enumerate(torch.randint(scores.shape[1], (scores.shape[0],), generator=rng).tolist()))


def best_against_worst(scores: Tensor, min_gap: float = 0.0) -> list[tuple[int, int, int]]:
    """Best and worst answer of every prompt whose scores differ by more than ``min_gap``: ties teach nothing.

    Returns:
        ``(prompt, best, worst)``; fewer than prompts where some tie.
    """
    best, worst = scores.argmax(1), scores.argmin(1)
    gaps = scores.amax(1) - scores.amin(1)
    found = zip(best.tolist(), worst.tolist(), gaps.tolist(), strict=True)
    return [(prompt, b, w) for prompt, (b, w, gap) in enumerate(found) if gap > min_gap]


def data_items(rows: Sequence[Row], answers: Sequence[Sequence[Row]] | None) -> list[Item]:
    """The rows' own answers, each against every sampled answer to its prompt where there are some (SPIN).

    A sample that says what the data says teaches nothing and is left out.

    Args:
        rows: prompts with their ``completion``.
        answers: samples per prompt, or ``None``.
    """
    own = [replace(row, steps=None, segments=(), chosen=None, rejected=None) for row in rows]
    if answers is None:
        return [Item(row) for row in own]
    return [
        Item(row, sample)
        for row, drawn in zip(own, answers, strict=True)
        for sample in drawn
        if not _same(row.completion, sample.completion)
    ]


def _same(one: object, other: object) -> bool:
    return isinstance(one, str) and isinstance(other, str) and one.strip() == other.strip()
