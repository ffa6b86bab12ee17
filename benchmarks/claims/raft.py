"""RAFT: supervised rounds on the best of K by reward.  See docs/claims/iterative.md."""

from __future__ import annotations

from mmalign.benchmarks.claims.iterative import (
    KL,
    claim,
    equal_work,
    every_round,
    gains_nothing,
    improves,
    lower,
    must,
    report,
    trained,
)
from mmalign.claims.definition import Verdict
from mmalign.claims.results import Results
from mmalign.claims.rules import at_least
from mmalign.objectives.order_statistics import best_of_k_kl

__all__ = ["CLAIM"]

K = 8
GRPO = {
    "grpo.max_steps": 48, "grpo.rollout_batch_size": 11, "grpo.num_generations": K, "grpo.learning_rate": 3e-3,
    "grpo.kl_coef": 0.0, "grpo.max_completion_length": 8, "grpo.save_steps": 1000,
}  # fmt: skip


def first_round_below_the_law(results: Results) -> Verdict:
    """KL after the first round, against log K - (K - 1)/K of an exact round."""
    bound = best_of_k_kl(K)
    room: dict[str, list[float]] = {}
    for cell in results.cells("raft"):
        room.setdefault(cell.start, []).append(bound - results.curve("raft", "iterate", "kl", cell)[0])
    return at_least(room, 0.0, unit="nats below the law")


CLAIM = claim(
    "raft",
    "RAFT raises reward round after round, because of the reward",
    "Dong et al. (2023), arXiv:2304.06767; statements of mmalign's own",
    (
        trained("raft", "likelihood of the best of 8", {}),
        trained("shuffled", "control: rewards permuted among all answers", {"iterate.shuffle_labels": True}),
        trained("random", "control: one of the 8 at random", {"iterate.select": "random"}),
        trained("top", "the best eighth of all answers, whatever their prompts", {"iterate.select": "top"}),
        trained("grpo", "GRPO on about as many samples and steps", GRPO, kind="baseline", stage="grpo"),
    ),
    (
        must(
            "E1",
            "the arms made equal steps on equal samples",
            equal_work("raft", "shuffled", "random", "top"),
        ),
        must("R1", "accuracy rises, paired interval above 0", improves("raft")),
        must(
            "R2",
            "held-out reward rises in each of the first three rounds",
            every_round("raft", "rewards/mean", 3),
        ),
        must("R3", "shuffled rewards gain nothing", gains_nothing("shuffled", "raft")),
        must("R4", "training on random samples gains nothing", gains_nothing("random", "raft")),
        must("R5", "KL after round 1 is below log K - (K - 1)/K", first_round_below_the_law),
        report("T1", "best of each prompt beats the best of all answers", improves("raft", "top")),
        report("T2", "RAFT is above GRPO on as many samples and steps", improves("raft", "grpo")),
        report("T3", "RAFT ends nearer to the start than GRPO", lower("raft", "grpo", KL)),
    ),
    vary=("iterate.shuffle_labels", "iterate.select"),
)
"""The claim, found through the registry as ``raft``."""
