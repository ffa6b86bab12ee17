"""EVA's start of LoRA on mini-VTAB against a random start and PiSSA's.  See docs/claims/tuners.md."""

from __future__ import annotations

from pathlib import Path

from mmalign.benchmarks.claims.checks import Check, minus, must, report
from mmalign.benchmarks.claims.transfer_checks import EIGHT, EQUAL, SHARED, TABLES, above, tuned
from mmalign.claims.definition import Claim, Verdict
from mmalign.claims.results import Results
from mmalign.claims.rules import rises

__all__ = ["CLAIM"]

RANK = 2


def falls_faster(arm: str, other: str) -> Check:
    """The training loss, averaged over epochs and tasks, is lower, paired by seed."""

    def check(results: Results) -> Verdict:
        def mean(name: str) -> dict[str, list[float]]:
            found: dict[str, list[float]] = {}
            for cell in results.cells(name):
                losses = results.curve(name, "transfer", "loss", cell)
                found.setdefault(cell.start, []).append(sum(losses) / len(losses))
            return found

        return rises(minus(mean(other), mean(arm)), unit="nats")

    return check


CLAIM = Claim(
    name="eva",
    title="LoRA started along the variance of its inputs learns faster than from other starts",
    source="Paischer et al. (2024), arXiv:2410.07170",
    arms=(
        tuned(
            "eva", "eva", "A along the inputs' variance, ranks shared out by it", {"r": RANK, "alpha": RANK}
        ),
        tuned(
            "eva_uniform",
            "eva",
            "the same start with the same rank in every layer",
            {"r": RANK, "alpha": RANK, "rho": 1.0},
        ),
        tuned("random", "lora", "LoRA's own random start", {"r": RANK, "alpha": RANK}),
        tuned("pissa", "pissa", "PiSSA's start inside the weight", {"r": RANK}),
    ),
    statements=(
        must(
            "V1", "EVA's training loss falls faster than from a random start", falls_faster("eva", "random")
        ),
        must("V2", "EVA's accuracy is above a random start's", above("eva", "random")),
        must("V3", "EVA's accuracy is above PiSSA's", above("eva", "pissa")),
        report("V4", "EVA's training loss falls faster than PiSSA's", falls_faster("eva", "pissa")),
        report("V5", "sharing the ranks out is above equal ranks", above("eva", "eva_uniform")),
        report("V6", "the start with equal ranks is above a random start", above("eva_uniform", "random")),
    ),
    recipe="mini-vtab",
    overrides={**SHARED, "transfer.tasks": list(EIGHT), "transfer.learning_rates": [3e-3, 1e-2]},
    quick={"transfer.tasks": ["digits", "cells", "vehicle"], "transfer.epochs": 1},
    equal=EQUAL,
    vary=("transfer.tuner",),
    seeds=3,
    curves=("loss",),
    tables=TABLES,
    recorded=Path(__file__).parent / "verdicts" / "eva.json",
)
"""The claim, found through the registry as ``eva``."""
