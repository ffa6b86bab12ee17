"""Hierarchical side-tuning on mini-VTAB and on pixels of scenes, against its controls.  See docs/claims/tuners.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmalign.benchmarks.claims.checks import minus, must, report
from mmalign.benchmarks.claims.transfer_checks import EQUAL, GROUPS, TABLES, above, tuned
from mmalign.claims.definition import Arm, Claim, Verdict
from mmalign.claims.results import Results
from mmalign.claims.rules import over_seeds, rises

__all__ = ["CLAIM"]

TRAINABLE, KEPT = "measured/cost/trainable", "measured/cost/saved_bytes"
TOLERANCE, SHARE = 0.1, 0.15
SIDE = {"widths": "[8, 12]", "heads": "[2, 2]"}
LADDER = {"widths": "[6]", "heads": "[2]"}
TASKS = ("digits", "shape-hue", "roads", "distance")
"""Two natural tasks, a specialised and a structured one: all nineteen cost more than this machine gives."""
EPOCHS, PIXEL_EPOCHS = 10, 15
HEAD, WHOLE, PART, BESIDE = 1e-2, 3e-3, 1e-2, 3e-2
"""Rates of the head alone, of every weight, of LoRA and adapters, and of side networks, chosen on validation: of
``count``, which is none of ``TASKS``, and of the pixels.  A side network starts from nothing and wants the highest."""

OTHERS: tuple[tuple[str, float, str, dict[str, Any]], ...] = (
    ("bitfit", BESIDE, "biases alone", {}),
    ("ssf", BESIDE, "scale and shift after every layer", {}),
    ("vpt", BESIDE, "8 prompts at every block", {"n": 8, "deep": True}),
    ("mam", PART, "prefixes and parallel adapters", {}),
    ("dora", PART, "DoRA of rank 3 in every projection", {"r": 3, "alpha": 3}),
    ("spt", BESIDE, "0.4 % of the weights", {"budget": 0.004, "rank": 1, "dropout": 0.0, "drop_path": 0.0}),
)
"""Tuners of other sizes, for the table of docs/tuners/README.md; no statement is about them.  Their rates were chosen
in the same way."""


def _at(name: str, tuner: str, rate: float, text: str, options: dict[str, Any] | None = None) -> Arm:
    return tuned(name, tuner, text, options, {"learning_rates": [rate]})


def _pixels(name: str, tuner: str, text: str, options: dict[str, Any] | None = None) -> Arm:
    where = {"suite": "scenes-pixels", "tasks": ["classes"], "epochs": PIXEL_EPOCHS}
    return tuned(name, tuner, f"pixels: {text}", options, {**where, "learning_rates": [BESIDE]})


def about_as_many(results: Results) -> Verdict:
    """HST, LoRA and adapters train about as many numbers, heads left out."""
    arms = ("hst", "lora", "adapter")
    counts = {arm: over_seeds(results.per_start(arm, TRAINABLE)).value or 0.0 for arm in arms}
    ratio = min(counts.values()) / max(counts.values())
    text = ", ".join(f"{arm} {count:,.0f}" for arm, count in counts.items())
    return Verdict("holds" if ratio >= 1 - TOLERANCE else "fails", ratio, text=text)


def keeps_little(results: Results) -> Verdict:
    """The detached mode keeps at most 15 % of the activations that full fine-tuning keeps."""
    ours, theirs = (over_seeds(results.per_start(arm, KEPT)).value or 0.0 for arm in ("lst", "full"))
    share = ours / theirs
    text = f"{share:.1%} of full fine-tuning's {theirs / 2**20:.1f} MiB a batch"
    return Verdict("holds" if share <= SHARE else "fails", share, text=text)


def above_by_groups(results: Results) -> Verdict:
    """HST above LoRA in the mean of group means, paired by seed."""
    return rises(minus(results.per_start("hst", GROUPS), results.per_start("lora", GROUPS)))


CLAIM = Claim(
    name="hst",
    title="A side network reads what a frozen backbone knows better than what is as small inside it",
    source="Lin et al. (2023), arXiv:2310.05393; Sung et al. (2022), arXiv:2206.06522",
    arms=(
        _at("linear", "linear", HEAD, "control: a head on the frozen backbone"),
        _at("full", "full", WHOLE, "every weight"),
        _at("lora", "lora", PART, "LoRA of rank 3 in every projection", {"r": 3, "alpha": 3}),
        _at("adapter", "adaptformer", PART, "AdaptFormer, 22 wide", {"hidden": 22, "scale": 1.0}),
        _at("hst", "hst", BESIDE, "side network, 8 and 12 channels at strides 4 and 8", SIDE),
        _at("lst", "lst", BESIDE, "detached: no gradient through the backbone", LADDER),
        *(_at(name, name, rate, f"beside: {text}", options) for name, rate, text, options in OTHERS),
        _pixels("pixels_linear", "linear", "a linear head on the frozen tokens"),
        _pixels("pixels_hst", "hst", "side network with the dense head", {**SIDE, "head": "dense"}),
        _pixels("pixels_lst", "lst", "detached, with the dense head", {**LADDER, "head": "dense"}),
    ),
    statements=(
        must(
            "E1",
            "HST, LoRA and adapters train about as many numbers",
            about_as_many,
        ),
        must("S1", "HST above a linear head, mean over tasks", above("hst", "linear")),
        must("S2", "HST above LoRA at its count", above("hst", "lora")),
        must("S3", "HST above adapters at its count", above("hst", "adapter")),
        must("M1", "the detached mode keeps at most 15 % of full fine-tuning's activations", keeps_little),
        must("M2", "and is above a linear head all the same", above("lst", "linear")),
        must("D1", "on pixels HST is above a linear head", above("pixels_hst", "pixels_linear")),
        report("R1", "HST above full fine-tuning", above("hst", "full")),
        report("R2", "HST above LoRA, mean of group means", above_by_groups),
        report("R3", "HST above the detached mode", above("hst", "lst")),
        report(
            "R4", "on pixels the detached mode is above a linear head", above("pixels_lst", "pixels_linear")
        ),
    ),
    recipe="mini-vtab",
    overrides={"transfer.tasks": list(TASKS), "transfer.epochs": EPOCHS},
    quick={"transfer.epochs": 1},
    equal=EQUAL,
    vary=("transfer.tuner", "transfer.suite", "transfer.tasks", "transfer.learning_rates", "transfer.epochs"),
    curves=("loss",),
    tables=TABLES,
    seeds=5,
    recorded=Path(__file__).parent / "verdicts" / "hst.json",
)
"""The claim, found through the registry as ``hst``."""
