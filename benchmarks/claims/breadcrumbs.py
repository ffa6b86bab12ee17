"""Model Breadcrumbs on mini-VTAB against other ways to merge, and its controls.  See docs/claims/tuners.md."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mmalign.benchmarks.claims.breadcrumbs_measured import PAIRS, merge_tasks
from mmalign.benchmarks.claims.checks import must, report
from mmalign.benchmarks.claims.transfer_checks import pooled
from mmalign.claims.definition import Arm, Claim, Verdict
from mmalign.claims.results import Results
from mmalign.claims.rules import rises

__all__ = ["CLAIM"]

ARM = "merged"


def above(method: str, other: str) -> Callable[[Results], Verdict]:
    """Test accuracy of one method's backbone is above another's, over pairs of tasks and seeds."""
    names = [(f"{'+'.join(pair)}/{method}/test", f"{'+'.join(pair)}/{other}/test") for pair in PAIRS]
    return lambda results: rises(pooled(results, ARM, names))


CLAIM = Claim(
    name="breadcrumbs",
    title="Task vectors merge better without their largest and smallest entries",
    source="Davari and Belilovsky (2024), arXiv:2312.06795",
    arms=(
        Arm(
            ARM,
            kind="baseline",
            stages=(),
            job=merge_tasks,
            text="two tasks in one backbone, each with its own frozen head, over three pairs",
        ),
    ),
    statements=(
        must("S1", "breadcrumbs above task arithmetic", above("breadcrumbs", "arithmetic")),
        must("S2", "breadcrumbs above the untouched backbone", above("breadcrumbs", "base")),
        must("C1", "breadcrumbs above random masks of the same shares", above("breadcrumbs", "random")),
        report("C2", "breadcrumbs above keeping the largest entries", above("breadcrumbs", "largest")),
        report("R1", "breadcrumbs above TIES", above("breadcrumbs", "ties")),
        report("R2", "breadcrumbs above DARE", above("breadcrumbs", "dare")),
        report("R3", "breadcrumbs above the mean of the task vectors", above("breadcrumbs", "mean")),
        report("R4", "a backbone per task is above breadcrumbs", above("alone", "breadcrumbs")),
    ),
    recipe="mini-vtab",
    overrides={"transfer.batch_size": 50},
    tables={
        name: f"measured/{name}/test"
        for name in (
            "base",
            "mean",
            "arithmetic",
            "breadcrumbs",
            "random",
            "largest",
            "ties",
            "dare",
            "alone",
        )
    },
    seeds=5,
    recorded=Path(__file__).parent / "verdicts" / "breadcrumbs.json",
)
"""The claim, found through the registry as ``breadcrumbs``."""
