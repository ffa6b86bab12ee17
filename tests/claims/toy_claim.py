"""A claim on the toy modality that runs in seconds; workers import it as ``tests.claims.toy_claim:CLAIM``."""

from __future__ import annotations

import os
import time
from pathlib import Path

from mmalign.claims.baselines import best_of_n
from mmalign.claims.definition import Arm, Claim, Statement, Verdict
from mmalign.claims.identities import reward_identities
from mmalign.claims.noise import clean_quality
from mmalign.claims.results import Results
from mmalign.claims.rules import at_least, rises
from mmalign.errors import UserError
from mmalign.pipeline.context import RunContext

NAME = "tests.claims.toy_claim"
ACCURACY = "toy@T1/accuracy"
TRAIN = {"evaluate.include_start": False}


def improves(results: Results) -> Verdict:
    """The dense arm answers more rows right than its start."""
    return rises(results.change("dense", "sft", ACCURACY))


def impossible(results: Results) -> Verdict:
    """Nothing reaches twice the possible accuracy."""
    return at_least(results.per_start("dense", ACCURACY), 2.0)


def pause(ctx: RunContext) -> None:
    """Wait where the environment says so, for a test that kills the run here."""
    if os.environ.get("TOY_CLAIM_PAUSE"):
        (ctx.run_dir / "waiting").touch()
        time.sleep(120)


def broken(ctx: RunContext) -> None:
    """A job that fails as a user's error does."""
    if not Path(os.environ.get("TOY_CLAIM_MENDED", "/nonexistent")).exists():
        raise UserError("the toy is broken on purpose")


ARMS = (
    Arm("sft", kind="start", stages=("sft", "evaluate")),
    Arm("shared", kind="shared", stages=("feedback", "reward_model"), reuses="sft"),
    Arm("dense", TRAIN, reuses="shared", job=reward_identities(("object", "attribute"), 16)),
    Arm("sequence", {**TRAIN, "reward.placement": "sequence"}, reuses="shared", job=pause),
)
MORE = (
    Arm("noisy", {"feedback.label_noise": 0.4}, kind="shared", stages=("feedback", "reward_model"), reuses="sft",
        job=clean_quality("shared"), first_seeds=1),
    Arm("shuffled", {**TRAIN, "feedback.shuffle_labels": True},
        stages=("feedback", "reward_model", "ppo", "evaluate"), reuses="sft", first_seeds=1, quick=False),
    Arm("greedy", {"evaluate.temperatures": [0.0]}, kind="baseline", stages=("evaluate",), reuses="sft"),
    Arm("best_of_4", kind="baseline", stages=(), reuses="shared", job=best_of_n(4)),
)  # fmt: skip
STATEMENTS = (
    Statement("A", "training raises accuracy", True, improves),
    Statement("B", "accuracy reaches 2", False, impossible),
)
SMALL = {"guard.enabled": False, "sft.max_steps": 40, "feedback.n_prompts": 24, "feedback.n_heldout": 12, "reward_model.max_steps": 30,
         "ppo.max_steps": 8, "evaluate.n": 32}  # fmt: skip


BOTH = {"one": (), "two": {"model.model_name_or_path": "toy:2"}}


def make(
    name: str, arms: tuple[Arm, ...], statements: tuple[Statement, ...] = STATEMENTS, *, starts: int = 1
) -> Claim:
    """The toy claim with other arms or statements."""
    return Claim(
        name=name,
        title="PPO helps the toy",
        source="a test",
        arms=arms,
        statements=statements,
        recipe="toy",
        overrides=SMALL,
        quick=("--evaluate.n 16",),
        starts=dict(list(BOTH.items())[:starts]),
        equal=("seed", "data", "sft", "ppo", "evaluate", "reward"),
        vary=("reward.placement",),
        tables={"accuracy": ACCURACY, "KL": "train/kl"},
    )


CLAIM = make("toy", ARMS + MORE, starts=2)
SHORT = make("toy-short", ARMS)
UNMET = make("toy-unmet", ARMS[:3], (Statement("B", "accuracy reaches 2", True, impossible),))
FAILING = make("toy-failing", (ARMS[0], Arm("bad", kind="baseline", stages=(), reuses="sft", job=broken)), ())
UNEQUAL = make("toy-unequal", (*ARMS, Arm("longer", {**TRAIN, "ppo.max_steps": 9}, reuses="shared")))
