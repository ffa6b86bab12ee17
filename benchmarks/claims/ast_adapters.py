"""Adapters of an audio spectrogram transformer against other ways to tune it.  See docs/claims/tuners.md."""

from __future__ import annotations

from pathlib import Path

from mmalign.benchmarks.claims.ast_measured import ARMS, TASKS, hear
from mmalign.benchmarks.claims.checks import Check, must, report
from mmalign.benchmarks.claims.transfer_checks import pooled
from mmalign.claims.definition import Arm, Claim, Verdict
from mmalign.claims.results import Results
from mmalign.claims.rules import at_least, rises

__all__ = ["CLAIM"]

ARM = "ast"


def _gaps(results: Results, way: str, other: str, margin: float = 0.0) -> dict[str, list[float]]:
    return pooled(results, ARM, [(f"{way}/task/{task}", f"{other}/task/{task}") for task in TASKS], margin)


def above(way: str, other: str) -> Check:
    """One way of tuning is above another, over pairs of seed and task."""
    return lambda results: rises(_gaps(results, way, other))


def at_most_below(way: str, other: str, margin: float) -> Check:
    """One way is at most ``margin`` below another, with its whole interval."""
    return lambda results: at_least(_gaps(results, way, other, margin), 0.0, unit="points")


def small_share(results: Results) -> Verdict:
    """The adapters train at most a tenth of what full fine-tuning does."""
    counts = {name: results.value(ARM, f"measured/{name}/trained", results.cells(ARM)[0]) for name in ARMS}
    share = max(counts["conformer"], counts["bottleneck"]) / counts["full"]
    text = ", ".join(f"{name} {count:,.0f}" for name, count in counts.items())
    return Verdict("holds" if share <= 0.1 else "fails", share, text=text)


CLAIM = Claim(
    name="ast-adapters",
    title="Adapters of an audio spectrogram transformer come near full fine-tuning and beat a linear head",
    source="Cappellazzo et al. (2023), arXiv:2312.03694",
    arms=(
        Arm(
            ARM,
            kind="baseline",
            stages=(),
            job=hear,
            text="an AST that tells timbre, register and dynamics, tuned to tempo, mode and contour in every way",
        ),
    ),
    statements=(
        must("E1", "the adapters train at most a tenth of the weights", small_share),
        must("A1", "the Conformer adapter is above a linear head", above("conformer", "linear")),
        must("A2", "the bottleneck adapter is above a linear head", above("bottleneck", "linear")),
        must(
            "A3",
            "the bottleneck is above the reference code's, which starts both projections at 0",
            above("bottleneck", "reference"),
        ),
        must("A4", "the Conformer adapter is above LoRA", above("conformer", "lora")),
        report("A5", "the Conformer adapter is above the bottleneck", above("conformer", "bottleneck")),
        report(
            "A6",
            "the Conformer adapter is at most 3 points below full fine-tuning",
            at_most_below("conformer", "full", 0.03),
        ),
    ),
    recipe="mini-vtab",
    seeds=5,
    tables={name: f"measured/{name}/mean" for name in ARMS},
    recorded=Path(__file__).parent / "verdicts" / "ast-adapters.json",
)
"""The claim, found through the registry as ``ast-adapters``."""
