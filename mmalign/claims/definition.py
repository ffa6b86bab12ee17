"""What a claim is made of: arms that run, statements that judge them, and the starts they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mmalign.errors import UserError, nearest

if TYPE_CHECKING:
    from mmalign.claims.results import Results
    from mmalign.pipeline.context import RunContext

__all__ = ["Arm", "Claim", "Job", "Overrides", "Statement", "Verdict", "as_overrides"]

Overrides = Mapping[str, Any] | tuple[str, ...]
"""Changes to the recipe: ``{"ppo.max_steps": 10}`` or ``("--ppo.max_steps 10",)``."""

Job = Callable[["RunContext"], None]
"""What an arm does after its stages, with the run's context."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a statement came to: ``value`` with its interval, and one line that says why."""

    verdict: Literal["holds", "fails", "inconclusive"]
    value: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    text: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The fields as ``claim.json`` names them."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of doing it, run as an ordinary run folder ``<start>-seed<k>/<name>``.

    Args:
        name: the folder's name.
        overrides: what this arm changes of the claim's recipe.
        kind: ``train`` arms are held equal in ``Claim.equal``; ``start`` is the policy before training,
            ``shared`` makes feedback and reward models for others, ``baseline`` trains nothing.
        stages: the recipe's stages that run here.
        reuses: the arm whose finished stages (sft, feedback, reward_model) count as this one's.
        job: called after the stages, for what no stage does (best-of-n).
        first_seeds: run on the first so many seeds only (sweeps); every seed by default.
        quick: whether the arm runs under ``--quick`` too.
        weight: rough cost beside the other arms, for the time estimate.
        text: what the arm is, for tables.
    """

    name: str
    overrides: Overrides = ()
    kind: Literal["start", "shared", "train", "baseline"] = "train"
    stages: tuple[str, ...] = ("ppo", "evaluate")
    reuses: str | None = None
    job: Job | None = None
    first_seeds: int | None = None
    quick: bool = True
    weight: float = 1.0
    text: str = ""


@dataclass(frozen=True, slots=True)
class Statement:
    """A sentence that is true or not, and the check that says which from the files alone."""

    id: str
    text: str
    must_hold: bool
    check: Callable[[Results], Verdict]


@dataclass(frozen=True, slots=True)
class Claim:
    """An experiment: every arm from every start with every seed, then the statements.

    Args:
        name: the name it is registered and run under.
        title: one line.
        source: the paper, with its arXiv id, or where the claim comes from.
        arms: in running order; an arm stands after the arm it reuses.
        statements: in printing order.
        recipe: the shipped recipe's name or a YAML path.
        overrides: changes to the recipe for every arm.
        quick: further changes under ``--quick``.
        starts: name -> changes that give another starting policy.
        equal: prefixes of config keys in which no two ``train`` arms may differ, except by ``vary``.
        vary: keys below ``equal`` that arms may change after all.
        seeds: how many seeds run by default.
        curves: training metrics whose course over steps is recorded beside the usual ones.
        tables: metrics shown in the printed table, ``{"title": "task@mode/metric"}``.
        recorded: the verdict the maintainers recorded, shown by ``mmalign claims list``.

    Raises:
        UserError: on doubled names, or an arm that reuses one that does not stand before it.
    """

    name: str
    title: str
    source: str
    arms: tuple[Arm, ...]
    statements: tuple[Statement, ...]
    recipe: str
    overrides: Overrides = ()
    quick: Overrides = ()
    starts: Mapping[str, Overrides] = field(default_factory=lambda: {"base": ()})
    equal: tuple[str, ...] = ()
    vary: tuple[str, ...] = ()
    seeds: int = 5
    curves: tuple[str, ...] = ()
    tables: Mapping[str, str] = field(default_factory=dict)
    recorded: Path | None = None

    def __post_init__(self) -> None:
        seen: list[str] = []
        for arm in self.arms:
            if arm.name in seen:
                raise UserError(f"claim {self.name}: two arms are called {arm.name!r}; names must differ")
            if arm.reuses is not None and arm.reuses not in seen:
                raise UserError(
                    f"claim {self.name}: arm {arm.name} reuses {arm.reuses!r}, which does not stand before it"
                    f"{nearest(arm.reuses, seen)}"
                )
            seen.append(arm.name)
        ids = [statement.id for statement in self.statements]
        doubled = next((i for i in ids if ids.count(i) > 1), None)
        if doubled is not None:
            raise UserError(f"claim {self.name}: two statements are called {doubled!r}; ids must differ")
        if not self.starts:
            raise UserError(f"claim {self.name}: starts is empty; name at least one start")

    def arm(self, name: str) -> Arm:
        """The arm called ``name``.

        Raises:
            UserError: when there is none.
        """
        for arm in self.arms:
            if arm.name == name:
                return arm
        names = [arm.name for arm in self.arms]
        raise UserError(
            f"claim {self.name} has no arm {name!r}{nearest(name, names)}, only {', '.join(names)}"
        )

    def arms_for(self, seed_index: int, quick: bool = False) -> tuple[Arm, ...]:
        """The arms that run with seed number ``seed_index`` (counted from 0)."""
        return tuple(
            arm
            for arm in self.arms
            if (arm.first_seeds is None or seed_index < arm.first_seeds) and (arm.quick or not quick)
        )


def as_overrides(changes: Overrides) -> dict[str, Any]:
    """Return changes as dotted keys and values; flags ``--a.b value`` are read as YAML scalars.

    Raises:
        UserError: for a flag that is not ``--key value``.
    """
    if isinstance(changes, Mapping):
        return dict(changes)
    import yaml

    result: dict[str, Any] = {}
    for flag in changes:
        key, _, value = flag.removeprefix("--").replace("=", " ", 1).partition(" ")
        if not flag.startswith("--") or not key or not value.strip():
            raise UserError(f"claim override {flag!r}: expected '--key value'")
        result[key] = yaml.safe_load(value)
    return result
