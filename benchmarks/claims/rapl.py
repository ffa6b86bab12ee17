"""RAPL: a reward by transport in an aligned representation needs few labels.  See docs/objectives/rapl.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmalign.benchmarks.claims.checks import equal_steps, shown_beside
from mmalign.benchmarks.claims.control import above, at_most_below, better, better_by, must, numbers, report
from mmalign.claims.definition import Arm, Claim, Verdict
from mmalign.claims.results import Results
from mmalign.claims.rules import at_least

__all__ = ["CLAIM"]

LABELS = 20
SUCCESS, PROGRESS = "sweep@T1/success", "sweep@T1/progress"
SCORE = {"reward.name": "frame_score"}
OWN = {"reward.name": "episode",
       "reward.options": {"environment": 1.0, "progress": 1.0, "approach": 0.2, "success": 1.0}}  # fmt: skip
LEARNT = ("rapl", "score", "score5", "shuffled", "unaligned")


def _arm(name: str, text: str, changes: dict[str, Any]) -> Arm:
    stages = ("reward_model", "ppo", "evaluate")
    return Arm(name, {"evaluate.include_start": False, **changes}, stages=stages, reuses="start", text=text)


def shuffled_knows_nothing(results: Results) -> Verdict:
    """Coin labels leave less than half of the rank correlation."""
    real, coins = numbers(results, "rapl", "spearman"), numbers(results, "shuffled", "spearman")
    room = {s: [0.5 * a - b for a, b in zip(real[s], coins[s], strict=True)] for s in real}
    return at_least(room, 0.0, unit="below half")


CLAIM = Claim(
    name="rapl",
    title="PPO on RAPL's reward succeeds as often with a fifth of the labels of a plain preference reward",
    source="Tian et al. (2023), arXiv:2310.07932, and (2024), arXiv:2412.04835; statements of mmalign's own",
    arms=(
        Arm("start", kind="start", stages=("sft", "evaluate"), text="recordings of mixed skill cloned"),
        _arm("rapl", f"PPO on transport reward, {LABELS} labels", {}),
        _arm("score", f"PPO on a plain preference reward (Bradley-Terry), {LABELS} labels", SCORE),
        _arm("score5", f"PPO on a plain preference reward, {5 * LABELS} labels",
             {**SCORE, "reward_model.ranking.n_train": 5 * LABELS}),
        _arm("shuffled", "control: RAPL on coin labels", {"reward_model.ranking.shuffle": True}),
        _arm("unaligned", "control: transport in the pre-trained encoder, which learns from no label",
             {"reward_model.learning_rate": 1e-9}),
        Arm("oracle", {"evaluate.include_start": False, **OWN}, kind="baseline", stages=("ppo", "evaluate"),
            reuses="start", text="PPO on the environment's own reward and progress"),
        Arm("clone_more", {"sft.max_steps": 9000}, kind="baseline", stages=("sft", "evaluate"),
            text="no rewards: three times as many steps of cloning", quick=False),
    ),
    statements=(
        must("E1", "arms that learn a reward made equal steps of reward", equal_steps("reward_model", *LEARNT)),
        must("E2", "and of PPO", equal_steps("ppo", *LEARNT)),
        must("R1", "ranks held-out videos better than the plain reward at equal labels",
             above("rapl", "spearman", "score")),
        must("R3", "ranks them better than transport on pixels", above("rapl", "spearman", "rapl", "pixels/spearman")),
        must("R4", "coin labels leave less than half of it", shuffled_knows_nothing),
        must("R6", "distractors move its score less than transport on pixels",
             above("rapl", "distractor", "rapl", "pixels/distractor", sign=-1.0)),
        must("P1", "PPO on it succeeds more often than the clone", better("rapl", "start", SUCCESS)),
        must("P2", "and not more than 2 points less often than on five times the labels of the plain reward",
             at_most_below("rapl", "score5", 0.02, SUCCESS)),
        must("P3", "and more often than on the plain reward at equal labels", better("rapl", "score", SUCCESS)),
        must("P4", "and more often than on coin labels", better("rapl", "shuffled", SUCCESS)),
        report("A1", "by 25 points or more over the clone", better_by("rapl", "start", 0.25, SUCCESS)),
        report("T1", "more often than on five times the labels of the plain reward",
               better("rapl", "score5", SUCCESS)),
        report("T2", "more often than on the pre-trained encoder without labels",
               better("rapl", "unaligned", SUCCESS)),
        report("T3", "more often than three times the cloning", better("rapl", "clone_more", SUCCESS)),
        report("T4", "the environment's own reward bounds it", better("oracle", "rapl", SUCCESS)),
        report("R2", "ranks held-out videos better than the plain reward with five times the labels",
             above("rapl", "spearman", "score5")),
        report("R5", "ranks the long stick, never seen, better than the plain reward at equal labels",
             above("rapl", "spearman_long", "score")),
        report("K1", "distance from the clone, nats per episode", shown_beside("train/kl", *LEARNT, "oracle")),
    ),
    recipe="rapl",
    overrides={"evaluate.n": 256, "evaluate.batch_size": 256, "evaluate.split": "test"},
    quick={"sft.max_steps": 4, "reward_model.max_steps": 4, "ppo.max_steps": 2, "ppo.rollout_batch_size": 4,
           "ppo.per_device_train_batch_size": 4, "data.n_train": 24, "evaluate.n": 8,
           "reward_model.ranking.n_heldout": 12},
    equal=("seed", "modality", "model", "data", "sft", "reward_model", "ppo", "evaluate", "reward"),
    vary=("reward.name", "reward_model.ranking.n_train", "reward_model.ranking.shuffle",
          "reward_model.learning_rate"),
    seeds=5,
    tables={"success": SUCCESS, "progress": PROGRESS, "reward": "train/rewards/mean", "KL nats": "train/kl"},
    recorded=Path(__file__).parent / "verdicts" / "rapl.json",
)  # fmt: skip
"""The claim, found through the registry as ``rapl``."""
