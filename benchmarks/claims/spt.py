"""SPT at a budget of 0.4 % on mini-VTAB against its controls.  See docs/claims/tuners.md."""

from __future__ import annotations

from pathlib import Path

from mmalign.benchmarks.claims.checks import must, report
from mmalign.benchmarks.claims.transfer_checks import EQUAL, SHARED, TABLES, above, counts, tuned
from mmalign.claims.definition import Claim

__all__ = ["CLAIM"]

SHARE = 0.004
BUDGET = 2685
"""0.4 % of the candidates of small-vit (671,232 numbers: stem, positions, class token and head are none)."""
_PLAIN = {"budget": SHARE, "rank": 1, "dropout": 0.0, "drop_path": 0.0}
"""Rank 1 of 96 channels is the paper's rank 8 of 768: a matrix gets its module at the same share of its weights, and a
module takes a tenth of the budget."""

CLAIM = Claim(
    name="spt",
    title="SPT's choice of weights beats other choices of as many on mini-VTAB",
    source="He et al. (2023), arXiv:2303.08566",
    arms=(
        tuned("spt", "spt", "sensitive weights, LoRA of rank 1 where they are dense", _PLAIN),
        tuned(
            "unstructured",
            "spt",
            "control: the most sensitive weights alone",
            {**_PLAIN, "structure": "none"},
        ),
        tuned(
            "random",
            "spt",
            "control: random positions",
            {**_PLAIN, "structure": "none", "criterion": "random"},
        ),
        tuned(
            "magnitude",
            "spt",
            "control: the largest weights",
            {**_PLAIN, "structure": "none", "criterion": "magnitude"},
        ),
        tuned(
            "lora",
            "lora",
            "LoRA of rank 2 on query, key and value of every block (1.7 times the budget)",
            {"r": 2, "alpha": 2, "targets": "[attn.qkv]"},
        ),
        tuned("linear", "linear", "the head alone"),
    ),
    statements=(
        must(
            "E1",
            "SPT and its controls train 0.4 % to within 1 %, LoRA more",
            counts(BUDGET, ("spt", "unstructured", "random", "magnitude"), ("lora",)),
        ),
        must("S1", "SPT is above random positions", above("spt", "random")),
        must("S2", "SPT is above the largest weights", above("spt", "magnitude")),
        must("S3", "SPT is above the most sensitive weights without structure", above("spt", "unstructured")),
        must("S4", "SPT is above LoRA of a larger count", above("spt", "lora")),
        report("L1", "SPT is above the head alone", above("spt", "linear")),
    ),
    recipe="mini-vtab",
    overrides={
        **SHARED,
        "transfer.backbone": "small-vit",
        "transfer.learning_rates": [1e-2, 3e-2],
        "transfer.epochs": 10,
    },
    quick={"transfer.tasks": ["digits", "cells", "vehicle"], "transfer.epochs": 1},
    equal=EQUAL,
    vary=("transfer.tuner",),
    seeds=5,
    curves=("loss",),
    tables=TABLES,
    recorded=Path(__file__).parent / "verdicts" / "spt.json",
)
"""The claim, found through the registry as ``spt``."""
