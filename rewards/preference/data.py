"""Candidates for one prompt and what each is worth: from rows with answers, or from labelled answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from mmalign.data.pairs import pair_of
from mmalign.errors import UserError
from mmalign.rng import numpy_generator
from mmalign.types import Row

__all__ = [
    "RankBy",
    "Ranked",
    "prompt_id",
    "ranked_from_feedback",
    "ranked_from_rows",
    "shuffled",
    "with_margins",
]

RankBy = Literal["labels", "errors_first"]
"""How labelled answers are ranked: right less wrong segments, or fewest wrong segments and then most right."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """Candidates for one prompt, each a row of its own (media included), and their worth.

    Args:
        rows: at least two answers, or answers with media of their own.
        worth: one number per row; only the order counts, unless the loss has a margin per unit of worth.
        margin: by how much any better candidate should win, in units of the score (Bradley-Terry).
        unsafe: whether each answer is harmful by itself, where that is known (a cost model learns from it).
    """

    rows: tuple[Row, ...]
    worth: tuple[float, ...]
    margin: float = 0.0
    unsafe: tuple[bool, ...] | None = None

    def __post_init__(self) -> None:
        if len(self.rows) != len(self.worth) or len(self.rows) < 2:
            raise ValueError(
                f"{len(self.rows)} candidates and {len(self.worth)} numbers; expected two or more"
            )
        if self.unsafe is not None and len(self.unsafe) != len(self.rows):
            raise ValueError(f"{len(self.rows)} candidates and {len(self.unsafe)} flags of safety")


def prompt_id(row: Row) -> str:
    """The id of the prompt an answer belongs to: answers are called ``PROMPT#k`` or ``PROMPT:chosen``."""
    head = row.id.rpartition("#")[0] or row.id
    for side in (":chosen", ":rejected"):
        head = head.removesuffix(side)
    return head


def ranked_from_rows(rows: Iterable[Row]) -> list[Ranked]:
    """Rows with ``chosen`` and ``rejected``, or with the columns ``answers`` (texts) and ``scores`` (numbers).

    A column ``margin`` is by how much the chosen answer should win (Touvron et al., 2023, arXiv:2307.09288).  A column
    ``unsafe`` (a list of booleans, one per answer, or of the chosen and the rejected one) is what a cost model needs.

    Raises:
        UserError: for a row with neither, or with answers and scores that do not go together.
    """
    return [_listed(row) if "answers" in row.meta else _paired(row) for row in rows]


def ranked_from_feedback(answers: Sequence[Row], rank_by: RankBy = "labels") -> list[Ranked]:
    """Group labelled answers by prompt; prompts whose answers are all worth the same give none.

    Args:
        answers: rows with labelled segments, as stage ``feedback`` writes them.
        rank_by: ``labels`` counts labels +1 less labels -1 (over segments and types); ``errors_first`` prefers
            fewer wrong segments and, among equals, more right labels ("fewer hallucinations first, then
            helpful": Sun et al., 2023, arXiv:2309.14525).

    Raises:
        UserError: when no prompt has two answers of different worth.
    """
    groups: dict[str, list[Row]] = {}
    for row in answers:
        groups.setdefault(prompt_id(row), []).append(row)
    found = []
    for group in groups.values():
        worth = tuple(_worth(row, rank_by) for row in group)
        if len(set(worth)) > 1:
            found.append(Ranked(tuple(group), worth, unsafe=tuple(_has_wrong(row) for row in group)))
    if not found:
        raise UserError(
            f"{len(answers)} labelled answers of {len(groups)} prompts hold no two of different worth; "
            "sample more answers per prompt (feedback.n_samples)"
        )
    return found


def shuffled(groups: Sequence[Ranked], seed: int) -> list[Ranked]:
    """Control: every group keeps its answers and its numbers, but which belongs to which is drawn anew."""
    made = []
    for group in groups:
        order = numpy_generator(seed, "shuffle", prompt_id(group.rows[0])).permutation(len(group.rows))
        unsafe = None if group.unsafe is None else tuple(group.unsafe[k] for k in order)
        made.append(replace(group, worth=tuple(group.worth[k] for k in order), unsafe=unsafe))
    return made


def with_margins(groups: Sequence[Ranked], margin: float) -> list[Ranked]:
    """Give every group without a margin of its own this one."""
    return [group if group.margin else replace(group, margin=margin) for group in groups]


def _paired(row: Row) -> Ranked:
    pair = pair_of(row)
    margin = row.meta.get("margin", 0.0)
    if isinstance(margin, bool) or not isinstance(margin, int | float):
        raise UserError(f"row {row.id}: 'margin' must be a number, got {margin!r}")
    return Ranked((pair.chosen, pair.rejected), (1.0, 0.0), float(margin), _unsafe(row, 2))


def _listed(row: Row) -> Ranked:
    meta: Mapping[str, Any] = row.meta
    answers, scores = meta["answers"], meta.get("scores")
    if not isinstance(answers, Sequence) or not isinstance(scores, Sequence) or len(answers) != len(scores):
        raise UserError(f"row {row.id}: 'answers' and 'scores' must be lists of one length, for ranking")
    if len(answers) < 2 or not all(isinstance(s, int | float) and not isinstance(s, bool) for s in scores):
        raise UserError(f"row {row.id}: ranking needs two answers or more, each with a number in 'scores'")
    rest = {name: value for name, value in meta.items() if name not in ("answers", "scores")}
    rows = tuple(
        replace(row, id=f"{row.id}#{k}", completion=answer, steps=None, segments=(), meta=rest)
        for k, answer in enumerate(answers)
    )
    return Ranked(rows, tuple(float(score) for score in scores), unsafe=_unsafe(row, len(rows)))


def _unsafe(row: Row, n: int) -> tuple[bool, ...] | None:
    flags = row.meta.get("unsafe")
    if flags is None:
        return None
    if (
        not isinstance(flags, Sequence)
        or len(flags) != n
        or not all(isinstance(flag, bool) for flag in flags)
    ):
        raise UserError(f"row {row.id}: 'unsafe' must be a list of {n} times true or false, one per answer")
    return tuple(flags)


def _has_wrong(row: Row) -> bool:
    return any(label < 0 for segment in row.segments for label in segment.labels.values())


def _worth(row: Row, rank_by: RankBy) -> float:
    good = sum(label > 0 for segment in row.segments for label in segment.labels.values())
    bad = sum(label < 0 for segment in row.segments for label in segment.labels.values())
    if rank_by == "labels":
        return float(good - bad)
    wrong = sum(any(label < 0 for label in segment.labels.values()) for segment in row.segments)
    return -float(wrong) + good / (1.0 + good)
