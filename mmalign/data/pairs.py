"""Pairs of answers to one prompt: from rows with ``chosen`` and ``rejected``, or from labelled answers."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from mmalign.data.lazy import Mapped
from mmalign.errors import UserError
from mmalign.rng import derive_seed
from mmalign.types import Row

__all__ = [
    "Pair",
    "labelled_answers",
    "lazy_pairs",
    "pair_of",
    "pairs_from_feedback",
    "pairs_from_rows",
    "sides_of",
    "with_random_labels",
]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one prompt, each a row of its own; ``chosen`` is the better one."""

    chosen: Row
    rejected: Row


def pair_of(row: Row) -> Pair:
    """Split a row into its two candidates; each carries the prompt's media and then its own.

    Raises:
        UserError: when an answer is missing or empty, or both are the same.
    """
    sides = {}
    for name, own in (("chosen", row.chosen_media), ("rejected", row.rejected_media)):
        answer = getattr(row, name)
        if answer is None or (isinstance(answer, str) and not answer.strip()):
            what = "no" if answer is None else "an empty"
            raise UserError(
                f"row {row.id}: has {what} {name!r} answer; preference training needs 'chosen' and 'rejected'"
            )
        sides[name] = replace(
            row,
            id=f"{row.id}:{name}",
            media=(*row.media, *own),
            completion=answer,
            steps=None,
            segments=(),
            chosen=None,
            rejected=None,
            chosen_media=(),
            rejected_media=(),
        )
    same_text = isinstance(row.chosen, str) and row.chosen == row.rejected
    if same_text and not (row.chosen_media or row.rejected_media):
        raise UserError(f"row {row.id}: 'chosen' and 'rejected' are the same answer")
    return Pair(sides["chosen"], sides["rejected"])


def pairs_from_rows(rows: Iterable[Row]) -> list[Pair]:
    """:func:`pair_of` every row."""
    return [pair_of(row) for row in rows]


def lazy_pairs(rows: Sequence[Row]) -> Sequence[Pair]:
    """:func:`pair_of` every row, each made when it is asked for."""
    return Mapped(rows, pair_of)


def with_random_labels(pairs: Sequence[Pair], seed: int) -> Sequence[Pair]:
    """The control of every preference method: about half of the pairs turned round, which ones by the seed alone."""

    def turned(place: int) -> Pair:
        pair = pairs[place]
        coin = derive_seed(seed, "random labels", place) % 2
        return Pair(pair.rejected, pair.chosen) if coin else pair

    return Mapped(range(len(pairs)), turned)


def sides_of(pairs: Sequence[Pair]) -> Sequence[Row]:
    """Both answers of every pair, chosen first, each made when it is asked for."""
    return Mapped(range(2 * len(pairs)), lambda k: pairs[k // 2].rejected if k % 2 else pairs[k // 2].chosen)


def pairs_from_feedback(answers: Sequence[Row]) -> list[Pair]:
    """Pair the best with the worst labelled answer of each prompt; prompts whose answers tie give none.

    An answer is worth the number of its labels +1 less the number of its labels -1, over segments and types, so
    that neither silence nor invention wins.  Answers of one prompt have ids ``PROMPT#k``.

    Args:
        answers: rows with labelled segments, as stage ``feedback`` writes them.

    Raises:
        UserError: when no prompt has two answers of different worth.
    """
    groups: dict[str, list[Row]] = {}
    for row in answers:
        groups.setdefault(row.id.rpartition("#")[0] or row.id, []).append(row)
    pairs = []
    for group in groups.values():
        best, worst = max(group, key=_worth), min(group, key=_worth)
        if _worth(best) > _worth(worst):
            pairs.append(Pair(best, worst))
    if not pairs:
        raise UserError(
            f"{len(answers)} labelled answers of {len(groups)} prompts hold no pair of different worth; "
            "sample more answers per prompt (feedback.n_samples)"
        )
    return pairs


def labelled_answers(rows: Sequence[Row]) -> Sequence[tuple[Row, bool]]:
    """Single answers with a verdict: rows with ``completion`` and ``label``, or both answers of a pair.

    Every row is looked at once; what is kept of it is its place, and answers are made when they are asked for.

    Raises:
        UserError: when a row has neither, or a label that is not true or false.
    """
    places = array("Q")
    for place, row in enumerate(rows):
        places.extend(2 * place + part for part in range(len(_judged(row))))
    return Mapped(places, lambda at: _judged(rows[at // 2])[at % 2])


def _judged(row: Row) -> list[tuple[Row, bool]]:
    label = row.meta.get("label")
    if label is None:
        pair = pair_of(row)
        return [(pair.chosen, True), (pair.rejected, False)]
    if not isinstance(label, bool | int) or int(label) not in (0, 1) or row.completion is None:
        raise UserError(f"row {row.id}: needs a 'completion' and a 'label' of true or false, got {label!r}")
    return [(row, bool(label))]


def _worth(row: Row) -> int:
    return sum(int(label) for segment in row.segments for label in segment.labels.values())
