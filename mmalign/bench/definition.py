"""What a benchmark is made of: variants that do the same work, cases they do it on, and comparisons between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from mmalign.errors import UserError, nearest

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Bench", "Builder", "Case", "Comparison", "Step", "find_bench"]


def _nothing() -> None:
    return None


@dataclass(frozen=True, slots=True)
class Step:
    """One variant, ready to be run again and again on the same data.

    Args:
        run: does the work on what ``prepare`` gave; timed.
        outcome: after ``run``: the numbers it came to, by name (``loss``, ``gradient``, ``tokens``); not timed.
        prepare: what a data loader does (collation); timed apart from ``run``.
        once_s: CPU seconds already spent that a real run spends once (a reference pass that was cached).
    """

    run: Callable[[Any], object]
    outcome: Callable[[], Mapping[str, Tensor]]
    prepare: Callable[[], Any] = _nothing
    once_s: float = 0.0


class Builder(Protocol):
    """Makes the named variants of a case over the same weights and data."""

    def __call__(self, names: Sequence[str]) -> Mapping[str, Step]:
        """One :class:`Step` per name."""
        ...


@dataclass(frozen=True, slots=True)
class Comparison:
    """A ratio to report: CPU seconds (or peak memory) of ``base`` over those of ``candidate``.

    Args:
        base: the variant that is compared with.
        candidate: the variant that should need less.
        bar: the ratio that was promised, where one was.
        memory: whether peak memory is compared instead of time.
    """

    base: str
    candidate: str
    bar: float | None = None
    memory: bool = False

    @property
    def name(self) -> str:
        """``base / candidate``, with ``(memory)`` where it is memory."""
        return f"{self.base} / {self.candidate}" + (" (memory)" if self.memory else "")


@dataclass(frozen=True, slots=True)
class Case:
    """One setting of a benchmark: a model and a batch.

    Args:
        name: its name in tables.
        text: model and batch in words.
        variants: name -> what it is, in table order; every one is checked against the first.
        build: makes them.
        comparisons: the ratios to report; memory ones measure their variants in processes of their own.
        tolerance: largest relative difference in any outcome (L2 norm of the difference over that of the first).
        rounds: how many times every variant is timed, in turn.
        quick: whether ``--quick`` runs this case (and none without).
    """

    name: str
    text: str
    variants: Mapping[str, str]
    build: Builder
    comparisons: tuple[Comparison, ...]
    tolerance: float = 1e-5
    rounds: int = 5
    quick: bool = False

    def __post_init__(self) -> None:
        for comparison in self.comparisons:
            for side in (comparison.base, comparison.candidate):
                if side not in self.variants:
                    raise UserError(
                        f"bench case {self.name}: no variant {side!r}{nearest(side, self.variants)}, only "
                        f"{', '.join(self.variants)}"
                    )
        if self.rounds < 2 or not (0 < self.tolerance < math.inf):
            raise UserError(f"bench case {self.name}: needs at least 2 rounds and a tolerance above 0")

    @property
    def measured(self) -> tuple[str, ...]:
        """Variants whose peak memory some comparison asks for."""
        asked = {side for c in self.comparisons if c.memory for side in (c.base, c.candidate)}
        return tuple(name for name in self.variants if name in asked)


@dataclass(frozen=True, slots=True)
class Bench:
    """A benchmark: cases and one headline ratio.

    Args:
        name: the name it is registered and run under.
        title: one line.
        cases: in running order; the quick ones run with ``--quick``, the others without.
        headline: (case, comparison) of the last printed line; ``quick_headline`` the same under ``--quick``.
        needs: importable packages without which nothing can be compared, name -> how to install them.
        notes: what the reader must know to read the numbers right, printed and written with them.

    Raises:
        UserError: when a headline names no case or comparison of it.
    """

    name: str
    title: str
    cases: tuple[Case, ...]
    headline: tuple[str, str]
    quick_headline: tuple[str, str]
    needs: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for quick, (case, comparison) in ((False, self.headline), (True, self.quick_headline)):
            if comparison not in [c.name for c in self.case(case, quick).comparisons]:
                raise UserError(f"bench {self.name}: case {case} has no comparison {comparison!r}")

    def chosen(self, quick: bool) -> tuple[Case, ...]:
        """The cases that run."""
        return tuple(case for case in self.cases if case.quick == quick)

    def case(self, name: str, quick: bool) -> Case:
        """The case called ``name``.

        Raises:
            UserError: when there is none.
        """
        found = {case.name: case for case in self.chosen(quick)}
        if name not in found:
            raise UserError(
                f"bench {self.name} has no case {name!r}{nearest(name, found)}, only {', '.join(found)}"
            )
        return found[name]


def find_bench(name: str) -> Bench:
    """The registered benchmark ``name``.

    Raises:
        UserError: for an unknown name or a plug-in that is not a :class:`Bench`.
    """
    from mmalign import registry

    found = registry.load("benches", name)
    if not isinstance(found, Bench):
        raise UserError(f"{name}: registered under benches as a {type(found).__name__}, not as a Bench")
    return found
