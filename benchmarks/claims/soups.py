"""Model soups on mini-VTAB against the best single model and the ensemble.  See docs/claims/tuners.md."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mmalign.benchmarks.claims.checks import minus, must, report, shown_beside
from mmalign.benchmarks.claims.soups_measured import TASKS, pool
from mmalign.benchmarks.claims.transfer_checks import pooled
from mmalign.claims.definition import Arm, Claim, Verdict
from mmalign.claims.results import Results
from mmalign.claims.rules import at_least, rises

__all__ = ["CLAIM"]

ARM = "pool"


def above(key: str, other: str) -> Callable[[Results], Verdict]:
    """One figure is above another over all pools, each a pair of seed and task that shares no model with another."""

    def check(results: Results) -> Verdict:
        return rises(pooled(results, ARM, [(f"{task}/{key}", f"{task}/{other}") for task in TASKS]))

    return check


def never_below_on_validation(results: Results) -> Verdict:
    """On every task and seed the greedy soup's validation accuracy is at least the best member's."""
    (gaps,) = pooled(results, ARM, [(f"{task}/val/greedy", f"{task}/val/best") for task in TASKS]).values()
    worst = min(gaps)
    text = f"smallest difference {100 * worst:.1f} points over {len(gaps)} pools"
    return Verdict("holds" if worst >= 0 else "fails", worst, text=text)


def strangers_spoil(results: Results) -> Verdict:
    """The mean of members without a common basis loses at least 20 points to those members."""
    alone, mixed = (
        results.per_start(ARM, f"measured/test/{name}") for name in ("strangers", "strangers_soup")
    )
    return at_least(minus(alone, mixed), 0.2, unit="points")


CLAIM = Claim(
    name="soups",
    title="The mean of fine-tuned models beats the best of them, at the cost of one",
    source="Wortsman et al. (2022), arXiv:2203.05482",
    arms=(
        Arm(
            ARM,
            kind="baseline",
            stages=(),
            job=pool,
            text="six models per task from one start, other rates, epochs, decays and orders",
        ),
    ),
    statements=(
        must("E1", "greedy is never below the best member on validation", never_below_on_validation),
        must("S1", "the greedy soup beats the best member on the test", above("test/greedy", "test/best")),
        must("S2", "and on the shifted test", above("shift/greedy", "shift/best")),
        must("C1", "members whose channels stand in another order make no soup", strangers_spoil),
        report("R1", "the uniform soup beats the best member", above("test/uniform", "test/best")),
        report("R2", "the uniform soup beats it on the shifted test", above("shift/uniform", "shift/best")),
        report("R3", "the learned soup beats the best member", above("test/learned", "test/best")),
        report("R4", "the learned soup beats it on the shifted test", above("shift/learned", "shift/best")),
        report("R5", "the ensemble beats the greedy soup", above("test/ensemble", "test/greedy")),
        report("R6", "the ensemble beats it on the shifted test", above("shift/ensemble", "shift/greedy")),
        report("R7", "models in the greedy soup", shown_beside("measured/ingredients", ARM)),
    ),
    recipe="mini-vtab",
    overrides={"transfer.batch_size": 50},
    tables={
        "best": "measured/test/best",
        "uniform": "measured/test/uniform",
        "greedy": "measured/test/greedy",
        "learned": "measured/test/learned",
        "ensemble": "measured/test/ensemble",
        "best, shifted": "measured/shift/best",
        "greedy, shifted": "measured/shift/greedy",
    },
    seeds=3,
    recorded=Path(__file__).parent / "verdicts" / "soups.json",
)
"""The claim, found through the registry as ``soups``."""
