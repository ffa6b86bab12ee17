"""RAPL: a reward by transport in an aligned representation needs few labels.  See docs/objectives/rapl.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmalign.benchmarks.claims.control import (
    PROGRESS,
    SUCCESS,
    above,
    at_most_below,
    better,
    must,
    numbers,
    report,
)
from mmalign.claims.definition import Arm, Claim, Verdict
from mmalign.claims.results import Results
from mmalign.claims.rules import at_least

__all__ = ["CLAIM"]

LABELS = 20
STAGES = ("reward_model", "offline_rl", "evaluate")
SCORE = {"reward.name": "frame_score"}
MORE = {"data.n_train": 5 * LABELS, "reward_model.ranking.n_train": 5 * LABELS}
RECORDED = {"offline_rl.rewards": "recorded"}


def _arm(name: str, text: str, changes: dict[str, Any], kind: str = "train") -> Arm:
    return Arm(name, changes, kind=kind, stages=STAGES, text=text)  # type: ignore[arg-type]


def shuffled_knows_nothing(results: Results) -> Verdict:
    """Coin labels leave less than half of the rank correlation."""
    real, coins = numbers(results, "rapl", "spearman"), numbers(results, "shuffled", "spearman")
    room = {s: [0.5 * a - b for a, b in zip(real[s], coins[s], strict=True)] for s in real}
    return at_least(room, 0.0, unit="below half")


def equal_work(results: Results) -> Verdict:
    """The same number of updates of reward and policy in every arm that learns a reward."""
    seen = {
        tuple(len(results.curve(name, stage, "loss", cell)) for stage in STAGES[:2])
        for name in ("rapl", "score", "score5", "shuffled")
        for cell in results.cells(name)
    }
    if len(seen) != 1:
        return Verdict("fails", text=f"(reward, policy) steps differ: {sorted(seen)}")
    reward, policy = seen.pop()
    return Verdict("holds", float(reward), text=f"{reward} reward steps, {policy} policy steps everywhere")


CLAIM = Claim(
    name="rapl",
    title="RAPL's reward ranks videos and trains a policy with a fifth of the labels of a plain preference reward",
    source="Tian et al. (2023), arXiv:2310.07932, and (2024), arXiv:2412.04835; statements of mmalign's own",
    arms=(
        Arm("clone", {"offline_rl.keep": 1.0, **RECORDED}, kind="baseline", stages=STAGES[1:],
            text="all recordings cloned, no reward"),
        _arm("rapl", f"transport reward, {LABELS} labels", {}),
        _arm("score", f"plain preference reward (Bradley-Terry), {LABELS} labels", SCORE),
        _arm("score5", f"plain preference reward, {5 * LABELS} labels", {**SCORE, **MORE}),
        _arm("shuffled", "control: RAPL on coin labels", {"reward_model.ranking.shuffle": True}),
        Arm("oracle", RECORDED, kind="baseline", stages=STAGES[1:], text="the environment's own reward"),
    ),
    statements=(
        must("E1", "arms that learn a reward made equal steps", equal_work),
        must("R1", "ranks held-out videos better than the plain reward at equal labels",
             above("rapl", "spearman", "score")),
        must("R2", "ranks them better than the plain reward with five times the labels",
             above("rapl", "spearman", "score5")),
        must("R3", "ranks them better than transport on pixels", above("rapl", "spearman", "rapl", "pixels/spearman")),
        must("R4", "coin labels leave less than half of it", shuffled_knows_nothing),
        must("R5", "ranks the long stick, never seen, better than the plain reward at equal labels",
             above("rapl", "spearman_long", "score")),
        must("R6", "distractors move its score less than transport on pixels",
             above("rapl", "distractor", "rapl", "pixels/distractor", sign=-1.0)),
        must("P1", "its policy makes more progress than cloning all recordings", better("rapl", "clone", PROGRESS)),
        must("P2", "and at most 0.02 less than with five times the labels of the plain reward",
             at_most_below("rapl", "score5", 0.02, PROGRESS)),
        report("T1", "its policy makes more progress than the plain reward's at equal labels",
               better("rapl", "score", PROGRESS)),
        report("T2", "its policy makes more progress than the one on coin labels",
               better("rapl", "shuffled", PROGRESS)),
        report("T3", "the environment's own reward bounds it", better("oracle", "rapl", PROGRESS)),
        report("T4", "ranks the long stick better than the plain reward with five times the labels",
               above("rapl", "spearman_long", "score5")),
    ),
    recipe="rapl",
    overrides={"data.n_train": LABELS, "reward_model.ranking.n_train": LABELS, "evaluate.include_start": False,
               "evaluate.n": 60},
    quick={"reward_model.max_steps": 4, "offline_rl.offline_steps": 2, "offline_rl.updates": 4,
           "offline_rl.n_offline": 24, "evaluate.n": 8, "reward_model.ranking.n_heldout": 12},
    equal=("seed", "modality", "model", "data", "reward_model", "offline_rl", "evaluate", "reward"),
    vary=("reward.name", "data.n_train", "reward_model.ranking.n_train", "reward_model.ranking.shuffle"),
    seeds=3,
    tables={"progress": PROGRESS, "success": SUCCESS},
    recorded=Path(__file__).parent / "verdicts" / "rapl.json",
)  # fmt: skip
"""The claim, found through the registry as ``rapl``."""
