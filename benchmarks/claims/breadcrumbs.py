"""Model Breadcrumbs on mini-VTAB against other ways to merge, and its controls.  See docs/claims/tuners.md."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mmalign.benchmarks.claims.breadcrumbs_measured import merge_tasks
from mmalign.benchmarks.claims.checks import minus, must, report
from mmalign.claims.definition import Arm, Claim, Verdict
from mmalign.claims.results import Results
from mmalign.claims.rules import rises

__all__ = ["CLAIM"]

ARM = "merged"


def above(method: str, other: str) -> Callable[[Results], Verdict]:
    """Mean test accuracy of one method's backbone is above another's, paired by seed."""

    def check(results: Results) -> Verdict:
        ours, theirs = (results.per_start(ARM, f"measured/{name}/test") for name in (method, other))
        return rises(minus(ours, theirs))

    return check


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
            text="six tasks, one backbone, each task's own frozen head",
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
    seeds=3,
    recorded=Path(__file__).parent / "verdicts" / "breadcrumbs.json",
)
"""The claim, found through the registry as ``breadcrumbs``."""
