"""VPL: a latent user explains comparisons that contradict each other.  See docs/objectives/vpl.md."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmalign.benchmarks.claims.control import above, minus, must, numbers, report
from mmalign.claims.definition import Arm, Claim, Verdict
from mmalign.claims.results import Results
from mmalign.claims.rules import at_least, rises
from mmalign.data.jsonl import write_json
from mmalign.rng import generator
from mmalign.worlds.sweep.users import USERS, side, utility

if TYPE_CHECKING:
    from mmalign.pipeline.context import RunContext

__all__ = ["CLAIM"]

FILE = "users.json"
PLAYED = 60


def served(ctx: RunContext) -> None:
    """Write ``users.json``: where the trained policy works on test starts, and what that is worth to either user."""
    model = ctx.load_model(str(ctx.stage_dir("offline_rl") / "final"))
    rows = ctx.world.rows("test", PLAYED, ctx.cfg.data.seed, "start")
    rng = generator(ctx.cfg.seed, "claims", "users")
    rollout = ctx.adapter.sample(model, rows, 1, rng, temperature=0.0, max_steps=80)  # type: ignore[attr-defined]
    episodes = [row.completion for row in rollout.rows]
    found = {"side": math.fsum(side(e) for e in episodes) / PLAYED}
    for user in range(len(USERS)):
        found[f"utility/{user}"] = math.fsum(utility(user, e) for e in episodes) / PLAYED
    write_json(ctx.run_dir / FILE, found)


def coin_on_contested(results: Results) -> Verdict:
    """Without a latent user the accuracy on contested pairs is near a coin's (at most 60 %)."""
    found = numbers(results, "plain", "contested")
    return at_least(
        {s: [0.6 - value for value in column] for s, column in found.items()}, 0.0, unit="points below 60 %"
    )


def reaches(arm: str, key: str, least: float) -> Any:
    """A held-out number of an arm reaches ``least`` on average over seeds."""

    def check(results: Results) -> Verdict:
        return at_least(numbers(results, arm, key), least, unit="%")

    return check


def own_side(results: Results) -> Verdict:
    """The policy for "right" works further to the right than the one for "left"."""
    return rises(
        minus(numbers(results, "right", "side", FILE), numbers(results, "left", "side", FILE)),
        unit="table units",
    )


def own_user_served(results: Results) -> Verdict:
    """Each user likes the policy made for them better than the policy of the one reward for all."""
    gaps: dict[str, list[float]] = {}
    for arm, user in (("left", 0), ("right", 1)):
        ours, plain = (numbers(results, name, f"utility/{user}", FILE) for name in (arm, "plain"))
        for start, column in minus(ours, plain).items():
            before = gaps.get(start, [0.0] * len(column))
            gaps[start] = [a + 0.5 * b for a, b in zip(before, column, strict=True)]
    return rises(gaps, unit="utility")


def narrows(results: Results) -> Verdict:
    """Eight comparisons leave at most half of the doubt (posterior variance) that one leaves."""
    one, all_ = numbers(results, "left", "spread_1"), numbers(results, "left", "spread_all")
    return at_least(
        {s: [0.5 * a - b for a, b in zip(one[s], all_[s], strict=True)] for s in one}, 0.0, unit="below half"
    )


STAGES = ("reward_model", "offline_rl", "evaluate")
PLAIN = {"reward.name": "vpl_plain"}
CLAIM = Claim(
    name="vpl",
    title="A reward with a latent user predicts and serves people who contradict each other; one reward for all cannot",
    source="Poddar et al. (2024), arXiv:2408.10075; statements of mmalign's own",
    arms=(
        Arm("left", stages=STAGES, job=served, text="VPL, policy for the user of the left side"),
        Arm("right", {"reward.options": "{user: 1}"}, stages=STAGES[1:], reuses="left", job=served,
            text="the same reward model, policy for the user of the right side"),
        Arm("plain", PLAIN, stages=STAGES, job=served, text="one reward for all: Bradley-Terry on the same network"),
        Arm("shuffled", {"reward_model.ranking.shuffle": True}, stages=STAGES, job=served,
            text="control: every training set mixes users at random"),
    ),
    statements=(
        must("V1", "without a latent user contested pairs are a coin", coin_on_contested),
        must("V2", "with it at least 85 % of contested pairs of unseen people", reaches("left", "contested", 0.85)),
        must("V3", "more than one reward for all", above("left", "contested", "plain")),
        must("V4", "more than on sets that mix users", above("left", "contested", "shuffled")),
        must("V5", "a linear probe reads the user's type off z for 95 % of people", reaches("left", "probe", 0.95)),
        must("V6", "the policy for a user works on that user's side", own_side),
        must("V7", "users like their own policy better than that of one reward for all", own_user_served),
        report("T1", "pairs that users agree about are predicted no worse than by one reward for all",
               above("left", "agreed", "plain")),
        report("T2", "eight comparisons leave at most half of the doubt that one leaves", narrows),
    ),
    recipe="vpl",
    overrides={"evaluate.include_start": False},
    quick={"reward_model.max_steps": 4, "offline_rl.offline_steps": 2, "offline_rl.updates": 4,
           "offline_rl.n_offline": 12, "evaluate.n": 8, "data.n_train": 16, "data.n_validation": 16},
    equal=("seed", "modality", "model", "data", "reward_model", "offline_rl", "evaluate"),
    vary=("reward_model.ranking.shuffle",),
    seeds=3,
    tables={"success": "sweep@greedy/success"},
    recorded=Path(__file__).parent / "verdicts" / "vpl.json",
)  # fmt: skip
"""The claim, found through the registry as ``vpl``."""
