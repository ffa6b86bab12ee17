"""PPO on a cloned robot policy, against its controls.  See docs/modalities/robot.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmalign.benchmarks.claims.checks import equal_steps, minus, must, report, shown_beside
from mmalign.benchmarks.claims.control import better_by
from mmalign.benchmarks.claims.iterative import gains_nothing, improves
from mmalign.claims.definition import Arm, Claim, Verdict
from mmalign.claims.results import Results
from mmalign.claims.rules import rises

__all__ = ["CLAIM"]

STEPS = 200
BUDGET = 120.0
"""Nats per episode from its clone above which no arm is updated: without it PPO ends there, its control at 282."""
SUCCESS, SHARP = "sweep@T1/success", "sweep@T0.5/success"
LONG = "sweep@T1/success/long"


def _trained(name: str, text: str, changes: dict[str, Any]) -> Arm:
    overrides = {"evaluate.include_start": False, **changes}
    return Arm(name, overrides, stages=("ppo", "evaluate"), reuses="start", text=text)


def above_a_sharper_start(results: Results) -> Verdict:
    """PPO at T = 1 against the start at T = 0.5, paired by start and seed."""
    ours, theirs = results.per_start("ppo", SUCCESS), results.per_start("start", SHARP)
    return rises(minus(ours, theirs))


CLAIM = Claim(
    name="sweep-ppo",
    title="PPO makes a cloned robot policy succeed more often, because of the reward",
    source="Schulman et al. (2017), arXiv:1707.06347; statements of mmalign's own",
    arms=(
        Arm(
            "start",
            kind="start",
            stages=("sft", "evaluate"),
            text="cloned from 512 imperfect expert episodes",
        ),
        _trained("ppo", "PPO on the environment's reward and progress", {}),
        _trained(
            "shuffled", "control: every episode is paid what another earned", {"reward.options.shuffle": 0}
        ),
        Arm(
            "clone_more",
            {"sft.max_steps": 3000},
            kind="baseline",
            stages=("sft", "evaluate"),
            text="no rewards: three times as many steps of cloning",
        ),
    ),
    statements=(
        must("E1", "the trained arms made equal steps", equal_steps("ppo", "ppo", "shuffled")),
        must(
            "S1",
            "success rises over the cloned policy, paired interval above 0",
            improves("ppo", "start", SUCCESS),
        ),
        must("S2", "shuffled rewards gain nothing", gains_nothing("shuffled", "ppo", SUCCESS)),
        must("S3", "PPO ends above its shuffled control", improves("ppo", "shuffled", SUCCESS)),
        report("A1", "by 25 points or more", better_by("ppo", "start", 0.25, SUCCESS)),
        report("B1", "PPO ends above more cloning", improves("ppo", "clone_more", SUCCESS)),
        report("B2", "and above the cloned policy sampled at half the temperature", above_a_sharper_start),
        report("L1", "success rises with the stick that no training row has", improves("ppo", "start", LONG)),
        report(
            "K1", "distance from the clone, nats per episode", shown_beside("train/kl", "ppo", "shuffled")
        ),
    ),
    recipe="robot-ppo",
    overrides={
        "ppo.max_steps": STEPS,
        "ppo.kl_budget": BUDGET,
        "evaluate.n": 256,
        "evaluate.batch_size": 256,
        "evaluate.split": "test",
        "evaluate.temperatures": [1.0, 0.5],
    },
    quick={
        "sft.max_steps": 20,
        "data.n_train": 16,
        "ppo.max_steps": 2,
        "ppo.rollout_batch_size": 8,
        "evaluate.n": 16,
    },
    equal=("seed", "modality", "model", "data", "sft", "reward", "ppo", "evaluate", "guard"),
    vary=("reward.options",),
    tables={
        "success T=1": SUCCESS,
        "success T=0.5": SHARP,
        "long stick T=1": LONG,
        "reward": "train/rewards/mean",
        "KL nats": "train/kl",
    },
    seeds=5,
    recorded=Path(__file__).parent / "verdicts" / "sweep-ppo.json",
)
"""The claim, found through the registry as ``sweep-ppo``."""
