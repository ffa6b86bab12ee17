"""Pairwise comparison in both orders, so that a judge's liking for the first place cancels out.

    P(a > b) = (P(first wins | a, b) + 1 - P(first wins | b, a)) / 2

so P(a > b) + P(b > a) = 1 holds exactly, whatever the judge's bias.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from mmalign.errors import UserError
from mmalign.types import Row

__all__ = ["Comparer", "OrderSwapped", "Preference"]


class Comparer(Protocol):
    """A judge that compares two answers."""

    def compare(self, row: Row, first: str, second: str) -> float:
        """Probability in [0, 1] that the answer shown first is the better one."""
        ...


@dataclass(frozen=True, slots=True)
class Preference:
    """One comparison: ``probability`` that a is better, and what was said in each order."""

    probability: float
    a_first: float
    b_first: float

    @property
    def consistent(self) -> bool:
        """True when both orders name the same winner (an undecided order agrees with none)."""
        return (self.a_first - 0.5) * (self.b_first - 0.5) < 0


class OrderSwapped:
    """Ask for ``a, b`` and for ``b, a`` and average; count how the judge leans on position.

    Args:
        judge: any ``Comparer``.
    """

    def __init__(self, judge: Comparer) -> None:
        self.judge = judge
        self.n = 0
        self.n_consistent = 0
        self._first = 0.0

    def prefer(self, row: Row, a: str, b: str) -> Preference:
        """Compare two answers to ``row``.

        Raises:
            UserError: when the judge returns no probability.
        """
        a_first, b_first = self._ask(row, a, b), self._ask(row, b, a)
        result = Preference((a_first + 1.0 - b_first) / 2.0, a_first, b_first)
        self.n += 1
        self.n_consistent += result.consistent
        self._first += (a_first + b_first) / 2.0
        return result

    def report(self) -> dict[str, float | int | None]:
        """``n``, ``position_bias`` (mean P(first wins) - 0.5; 0 is unbiased), ``consistency`` (share)."""
        if not self.n:
            return {"n": 0, "position_bias": None, "consistency": None}
        return {
            "n": self.n,
            "position_bias": self._first / self.n - 0.5,
            "consistency": self.n_consistent / self.n,
        }

    def _ask(self, row: Row, first: str, second: str) -> float:
        p = float(self.judge.compare(row, first, second))
        if not 0.0 <= p <= 1.0:
            raise UserError(
                f"row {row.id!r}: the judge returned {p} where a probability in [0, 1] was expected."
            )
        return p
