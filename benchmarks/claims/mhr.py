"""Skills shared by tasks, routed head by head, against other ways to share.  See docs/claims/tuners.md."""

from __future__ import annotations

from pathlib import Path

from mmalign.benchmarks.claims.checks import Check, must, report, shown_beside
from mmalign.benchmarks.claims.mhr_measured import METHODS, NEW, multitask
from mmalign.benchmarks.claims.transfer_checks import pooled
from mmalign.claims.definition import Arm, Claim, Verdict
from mmalign.claims.results import Results
from mmalign.claims.rules import at_least, rises

__all__ = ["CLAIM"]

ARM = "skills"
TOLERANCE = 0.1
"""Routing a head at a time is 2,304 numbers more than Poly's, a twelfth of what MHR trains."""


def _gaps(results: Results, method: str, other: str, margin: float = 0.0) -> dict[str, list[float]]:
    """Difference of the test accuracy per new task and seed."""
    names = [(f"{method}/task/{task}", f"{other}/task/{task}") for task in NEW]
    return pooled(results, ARM, names, margin)


def above(method: str, other: str) -> Check:
    """A method is above another on new tasks, over pairs of seed and task."""
    return lambda results: rises(_gaps(results, method, other))


def not_far_below(method: str, other: str, margin: float) -> Check:
    """A method is at most ``margin`` below another with its whole interval."""
    return lambda results: at_least(_gaps(results, method, other, margin), 0.0, unit="points")


def about_as_many(results: Results) -> Verdict:
    """What learns the tasks together is about as many numbers for each way to share."""
    counts = {
        name: results.value(ARM, f"measured/{name}/trained", results.cells(ARM)[0])
        for name in ("shared", "poly", "mhr")
    }
    ratio = min(counts.values()) / max(counts.values())
    text = ", ".join(f"{name} {count:,.0f}" for name, count in counts.items())
    return Verdict("holds" if ratio >= 1 - TOLERANCE else "fails", ratio, text=text)


CLAIM = Claim(
    name="mhr",
    title="Skills routed head by head carry over to new tasks from few pictures",
    source="Caccia et al. (2023), arXiv:2211.03831; Ponti et al. (2023), arXiv:2202.13914",
    arms=(
        Arm(
            ARM,
            kind="baseline",
            stages=(),
            job=multitask,
            text="six tasks learnt together, then six new ones from 64 pictures each, by every method",
        ),
    ),
    statements=(
        must("E1", "shared LoRA, Poly and MHR train about as many numbers", about_as_many),
        must("M1", "MHR is above a new LoRA of as many numbers", above("mhr", "alone")),
        must("M2", "MHR is above one LoRA that all tasks shared", above("mhr", "shared")),
        must("M3", "MHR is above Poly", above("mhr", "poly")),
        report(
            "Z1", "MHR-z (routing alone) is at most 3 points below MHR", not_far_below("mhr_z", "mhr", 0.03)
        ),
        report("Z2", "MHR-mu (the mean of the skills) is above MHR", above("mhr_mu", "mhr")),
        report(
            "Z3",
            "numbers that learn a new task, head left out",
            lambda results: Verdict(
                "holds",
                text=", ".join(
                    f"{name} {results.value(ARM, f'measured/{name}/few', results.cells(ARM)[0]):,.0f}"
                    for name in METHODS
                ),
            ),
        ),
        report(
            "T1",
            "accuracy of the tasks learnt together (validation), MHR",
            shown_beside("measured/mhr/together", ARM),
        ),
        report("T2", "the same of one shared LoRA", shown_beside("measured/shared/together", ARM)),
    ),
    recipe="mini-vtab",
    quick={},
    seeds=3,
    tables={method: f"measured/{method}/mean" for method in METHODS},
    recorded=Path(__file__).parent / "verdicts" / "mhr.json",
)
"""The claim, found through the registry as ``mhr``."""
