"""What the claims of the iterative methods share: arms on the toy modality, controls, and how they are judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmalign.benchmarks.claims.checks import minus, must, report
from mmalign.claims.definition import Arm, Claim, Statement, Verdict
from mmalign.claims.results import Results
from mmalign.claims.rules import all_of, no_gain, rises, undecided

__all__ = [
    "ACCURACY",
    "EQUAL",
    "KL",
    "LENGTH",
    "TABLES",
    "claim",
    "equal_work",
    "gains_nothing",
    "improves",
    "lower",
    "must",
    "report",
    "start",
    "trained",
]

ACCURACY, KL, LENGTH = "toy@T1/accuracy", "train/kl", "train/completion_length"
TABLES = {
    "accuracy T=1": ACCURACY,
    "held-out reward": "train/rewards/mean",
    "KL nats": KL,
    "length steps": LENGTH,
}
EQUAL = ("seed", "modality", "model", "data", "sft", "reward", "dpo", "evaluate", "guard", "iterate")
_BASE: dict[str, Any] = {
    "guard.enabled": False,
    "data.n_train": 256,
    "sft.max_steps": 30,
    "reward.name": "toy",
    "iterate.iterations": 8,
    "iterate.updates": 6,
    "iterate.prompts": 64,
    "iterate.num_generations": 8,
    "iterate.learning_rate": 3e-3,
    "iterate.max_completion_length": 8,
    "iterate.rollout_batch_size": 64,
    "iterate.batch_size": 32,
    "iterate.per_device_train_batch_size": 256,
    "iterate.n_heldout": 128,
    "iterate.save_steps": 1000,
    "evaluate.tasks": ["toy"],
    "evaluate.n": 256,
    "evaluate.temperatures": [1.0],
    "evaluate.batch_size": 256,
}


def start() -> Arm:
    """The start: thirty steps of supervised training, about a quarter of the answers right."""
    return Arm("start", kind="start", stages=("sft", "evaluate"), text="the start, not trained further")


def trained(
    name: str,
    text: str,
    changes: Mapping[str, Any],
    *,
    kind: str = "train",
    stage: str = "iterate",
    job: Callable[[Any], None] | None = None,
) -> Arm:
    """An arm that trains from the shared start."""
    overrides = {"evaluate.include_start": False, **changes}
    return Arm(name, overrides, kind=kind, stages=(stage, "evaluate"), reuses="start", text=text, job=job)  # type: ignore[arg-type]


def claim(
    name: str,
    title: str,
    source: str,
    arms: tuple[Arm, ...],
    statements: tuple[Statement, ...],
    *,
    vary: tuple[str, ...],
    changes: Mapping[str, Any] | None = None,
    tables: Mapping[str, str] | None = None,
    starts: int = 1,
) -> Claim:
    """A claim on the toy modality from ``starts`` differently seeded models (of at most two)."""
    return Claim(
        name=name,
        title=title,
        source=source,
        arms=(start(), *arms),
        statements=statements,
        recipe="toy",
        overrides={**_BASE, **(changes or {})},
        quick={"iterate.iterations": 2, "evaluate.n": 64},
        starts={f"toy{k}": {"model.model_name_or_path": f"embedded:{k}"} for k in range(starts)},
        equal=EQUAL,
        vary=vary,
        tables=tables or TABLES,
        recorded=Path(__file__).parent / "verdicts" / f"{name}.json",
    )


def improves(arm: str, baseline: str = "start", metric: str = ACCURACY) -> Callable[[Results], Verdict]:
    """The arm is above the baseline, paired by start, seed and test row."""
    return lambda results: rises(results.change(arm, baseline, metric))


def lower(arm: str, other: str, metric: str, unit: str = "nats") -> Callable[[Results], Verdict]:
    """A training metric (KL, length) of one arm is below another's, paired by start and seed."""

    def check(results: Results) -> Verdict:
        ours, theirs = results.per_start(arm, metric), results.per_start(other, metric)
        return rises(minus(theirs, ours), unit=unit)

    return check


def gains_nothing(control: str, treated: str, metric: str = ACCURACY) -> Callable[[Results], Verdict]:
    """A control's share of right answers does not reliably rise, nor do a quarter of the errors go that the treated
    arm loses.
    """

    def falls(results: Results, arm: str) -> dict[str, list[float]]:
        before, after = results.per_start("start", metric), results.per_start(arm, metric)
        return {
            s: [(a - b) / (1.0 - b) for b, a in zip(before[s], after[s], strict=True)]  # share of errors gone
            for s in after
        }

    def check(results: Results) -> Verdict:
        change = results.change(control, "start", metric)
        return no_gain(change, falls(results, control), falls(results, treated))

    return check


def equal_work(*names: str) -> Callable[[Results], Verdict]:
    """The named arms made the same number of optimiser steps on the same number of answers in every cell."""

    def check(results: Results) -> Verdict:
        seen = set()
        for name in names:
            for cell in results.cells(name):
                steps = len(results.curve(name, "iterate", "loss", cell))
                drawn = len(results.curve(name, "iterate", "collect/items", cell))
                seen.add((steps, drawn))
        if len(seen) != 1:
            return Verdict("fails", text=f"(steps, rounds) differ: {sorted(seen)}")
        steps, rounds = seen.pop()
        return Verdict("holds", float(steps), text=f"{steps} steps in {rounds} rounds everywhere")

    return check


def every_round(arm: str, metric: str, rounds: int) -> Callable[[Results], Verdict]:
    """A held-out metric rises from each of the first rounds to the next, on average over seeds."""

    def check(results: Results) -> Verdict:
        parts = []
        for k in range(rounds):
            steps: dict[str, list[float]] = {}
            for cell in results.cells(arm):
                curve = results.curve(arm, "iterate", metric, cell)
                first = results.curve(arm, "iterate", f"start/{metric}", cell)
                points = [*first, *curve]
                if len(points) <= k + 1:
                    return undecided(f"{arm}: only {len(points) - 1} rounds")
                steps.setdefault(cell.start, []).append(points[k + 1] - points[k])
            parts.append((f"round {k + 1}", rises(steps, unit="reward")))
        return all_of(parts)

    return check
