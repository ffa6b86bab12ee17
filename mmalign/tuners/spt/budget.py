"""From scores to what trains: the globally best weights, gathered into modules where they are dense, at a budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmalign.errors import UserError

__all__ = ["Allocation", "Matrix", "allocate", "cost_curve"]


@dataclass(frozen=True)
class Matrix:
    """A matrix, a part of a fused one, or a vector: what competes for the budget as one thing.

    Args:
        name: for messages.
        scores: of its entries, flat.
        price: trainable numbers of the module that may stand for it; its size, for a vector that would train whole.
        threshold: at so many picks the module (or the whole vector) takes the place of the picks; ``None`` never.
    """

    name: str
    scores: NDArray[np.float32]
    price: int
    threshold: int | None


@dataclass(frozen=True)
class Allocation:
    """What the budget buys.

    Args:
        picks: ascending flat positions per matrix that train one by one; empty for a structured one.
        structured: which matrices get their module (or train whole).
        cost: trainable numbers, all in all.
        considered: how many of the best weights were looked at (tau).
        held_back: matrices that would have crossed their threshold and, at this budget, may not.
    """

    picks: tuple[NDArray[np.int64], ...]
    structured: tuple[bool, ...]
    cost: int
    considered: int
    held_back: tuple[int, ...]


def allocate(matrices: Sequence[Matrix], budget: int, fixed: int = 0, tolerance: float = 0.01) -> Allocation:
    """Choose tau so that the cost is nearest to ``budget``.

    For a given tau the tau highest scores of all are picked; where a matrix holds at least its threshold of them,
    its module takes their place.  The cost of every tau is computed at once (:func:`cost_curve`).  Where a module's
    price jumps over the budget by more than ``tolerance``, that matrix keeps its single picks and the search goes on.

    Reference: He et al. 2023, arXiv 2303.08566, section 3.3.
    Differs from the authors' code: exact in place of a sweep in steps of 20,000, and the last matrices may be held
    back so that the budget is met.

    Args:
        matrices: everything that may train.
        budget: trainable numbers wanted.
        fixed: what trains in any case (the class token).
        tolerance: relative miss of the budget that is accepted.

    Raises:
        UserError: where the budget cannot be met within ``tolerance``.
    """
    sizes = [len(matrix.scores) for matrix in matrices]
    flat = np.concatenate([matrix.scores for matrix in matrices]) if matrices else np.zeros(0, np.float32)
    if budget <= fixed or not len(flat):
        raise UserError(f"spt: a budget of {budget} leaves nothing to choose ({fixed} go to the class token)")
    order = np.argsort(-flat, kind="stable")
    owner = np.repeat(np.arange(len(matrices)), sizes)[order]
    held: list[int] = []
    while True:
        costs, crossings = cost_curve(matrices, owner, held)
        tau = int(np.argmin(np.abs(costs + fixed - budget))) + 1
        cost = int(costs[tau - 1]) + fixed
        if abs(cost - budget) <= tolerance * budget:
            return _allocation(matrices, order, owner, tau, cost, held, sizes)
        over = costs + fixed > budget
        jumps = np.flatnonzero((np.diff(over.astype(np.int8), prepend=over[:1]) != 0) & (crossings >= 0))
        if not len(jumps):
            raise UserError(
                f"spt: no choice costs within {tolerance:.0%} of the budget of {budget}; nearest is {cost} "
                "(a higher rank allows more)"
            )
        held.append(int(crossings[jumps[0]]))


def cost_curve(
    matrices: Sequence[Matrix], owner: NDArray[np.int64], held: Sequence[int] = ()
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cost after the first 1, 2, ... picks, and which matrix (or -1) became structured at each.

    Args:
        matrices: what competes.
        owner: the matrix of every weight, best score first.
        held: matrices that stay unstructured.
    """
    steps = np.ones(len(owner), np.int64)
    crossings = np.full(len(owner), -1, np.int64)
    for number, matrix in enumerate(matrices):
        if matrix.threshold is None or number in held:
            continue
        places = np.flatnonzero(owner == number)
        at = max(1, matrix.threshold) - 1
        if at < len(places):
            steps[places[at]] = matrix.price - at
            steps[places[at + 1 :]] = 0
            crossings[places[at]] = number
    return np.cumsum(steps), crossings


def _allocation(
    matrices: Sequence[Matrix],
    order: NDArray[np.int64],
    owner: NDArray[np.int64],
    tau: int,
    cost: int,
    held: Sequence[int],
    sizes: Sequence[int],
) -> Allocation:
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    counts = np.bincount(owner[:tau], minlength=len(matrices))
    structured = tuple(
        matrix.threshold is not None and number not in held and counts[number] >= max(1, matrix.threshold)
        for number, matrix in enumerate(matrices)
    )
    chosen = order[:tau]
    picks = tuple(
        np.zeros(0, np.int64) if whole else np.sort(chosen[owner[:tau] == number] - starts[number])
        for number, whole in enumerate(structured)
    )
    return Allocation(picks, structured, cost, tau, tuple(held))
