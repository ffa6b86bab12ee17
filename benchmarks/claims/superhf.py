"""SuperHF: RAFT with a KL prior.  See docs/claims/iterative.md."""

from __future__ import annotations

from mmalign.benchmarks.claims.iterative import (
    ACCURACY,
    KL,
    claim,
    equal_work,
    gains_nothing,
    improves,
    lower,
    must,
    report,
    trained,
)
from mmalign.claims.definition import Verdict
from mmalign.claims.results import Results
from mmalign.claims.rules import rises

__all__ = ["CLAIM"]

PPO = {
    "ppo.max_steps": 48, "ppo.rollout_batch_size": 86, "ppo.num_ppo_epochs": 1, "ppo.num_minibatches": 1,
    "ppo.learning_rate": 3e-3, "ppo.max_completion_length": 8, "ppo.save_steps": 1000,
}  # fmt: skip


def gain_per_nat(results: Results) -> Verdict:
    """Accuracy gained per nat of KL, SuperHF's less RAFT's."""
    gaps: dict[str, list[float]] = {}
    for cell in results.cells("superhf"):
        begin = results.value("start", ACCURACY, cell)
        rates = [
            (results.value(arm, ACCURACY, cell) - begin) / max(results.value(arm, KL, cell), 1e-3)
            for arm in ("superhf", "raft")
        ]
        gaps.setdefault(cell.start, []).append(rates[0] - rates[1])
    return rises(gaps, unit="per nat")


CLAIM = claim(
    "superhf",
    "SuperHF raises reward nearer to the start than RAFT",
    "Mukobi et al. (2023), arXiv:2310.16763; statements of mmalign's own",
    (
        trained("superhf", "likelihood of the best of 8 with a KL prior of 0.35", {"iterate.kl_coef": 0.35}),
        trained("strong", "the same with a prior of 2", {"iterate.kl_coef": 2.0}),
        trained("raft", "the same without the prior", {"iterate.kl_coef": 0.0}),
        trained("shuffled", "control: rewards permuted among all answers",
                {"iterate.kl_coef": 0.35, "iterate.shuffle_labels": True}),
        trained("ppo", "PPO on as many samples and steps", PPO, kind="baseline", stage="ppo"),
    ),
    (
        must("E1", "the arms made equal steps on equal samples", equal_work("superhf", "strong", "raft", "shuffled")),
        must("S1", "accuracy rises, paired interval above 0", improves("superhf")),
        must("S2", "it ends nearer to the start than without the prior", lower("superhf", "raft", KL)),
        must("S3", "a stronger prior ends nearer still", lower("strong", "superhf", KL)),
        must("S4", "shuffled rewards gain nothing", gains_nothing("shuffled", "superhf")),
        report("T1", "accuracy gained per nat of KL is above RAFT's", gain_per_nat),
        must("S5", "SuperHF is above PPO on as many samples and steps", improves("superhf", "ppo")),
        report("T2", "it ends nearer to the start than PPO", lower("superhf", "ppo", KL)),
    ),
    vary=("iterate.shuffle_labels", "iterate.kl_coef"),
    changes={"iterate.update": "superhf"},
)  # fmt: skip
"""The claim, found through the registry as ``superhf``."""
