"""DR-Tune on mini-VTAB against full fine-tuning, a linear head and its own controls.  See docs/claims/tuners.md."""

from __future__ import annotations

from pathlib import Path

from mmalign.benchmarks.claims.checks import must, report
from mmalign.benchmarks.claims.transfer_checks import EIGHT, EQUAL, SHARED, TABLES, above, tuned
from mmalign.claims.definition import Claim

__all__ = ["CLAIM"]

QUEUE = 200

CLAIM = Claim(
    name="dr-tune",
    title="A head that must also classify pretrained features makes full fine-tuning better",
    source="Zhou et al. (2023), arXiv:2308.12058",
    arms=(
        tuned("dr_tune", "full", "DR-Tune, a queue of 200", changes={"dr_tune.queue": QUEUE}),
        tuned("full", "full", "every weight, cross-entropy alone"),
        tuned(
            "unrotated",
            "full",
            "control: pretrained features as they are",
            changes={"dr_tune.queue": QUEUE, "dr_tune.calibration": "none"},
        ),
        tuned(
            "shuffled",
            "full",
            "control: calibrated features under other labels",
            changes={"dr_tune.queue": QUEUE, "dr_tune.calibration": "shuffled"},
        ),
        tuned("linear", "linear", "the head alone", changes={"learning_rates": [1e-2, 3e-2]}),
    ),
    statements=(
        must("D1", "DR-Tune is above full fine-tuning", above("dr_tune", "full")),
        must("D2", "DR-Tune is above the head alone", above("dr_tune", "linear")),
        must("D3", "DR-Tune is above features under other labels", above("dr_tune", "shuffled")),
        report("D4", "DR-Tune is above features that are not calibrated", above("dr_tune", "unrotated")),
    ),
    recipe="mini-vtab",
    overrides={**SHARED, "transfer.tasks": list(EIGHT), "transfer.learning_rates": [1e-3, 3e-3]},
    quick={"transfer.tasks": ["digits", "cells", "vehicle"], "transfer.epochs": 1},
    equal=EQUAL,
    vary=("transfer.tuner", "transfer.dr_tune", "transfer.learning_rates"),
    seeds=3,
    curves=("loss",),
    tables=TABLES,
    recorded=Path(__file__).parent / "verdicts" / "dr-tune.json",
)
"""The claim, found through the registry as ``dr-tune``."""
