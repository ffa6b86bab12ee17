"""DDPO: denoising as a decision process, followed by its policy gradient.  See docs/claims/diffusion.md."""

from __future__ import annotations

from mmalign.benchmarks.claims import pictures_statements as says
from mmalign.benchmarks.claims.pictures import (
    DDPO,
    EXACT,
    F1,
    F1_NETWORK,
    best_of_4,
    claim,
    guided,
    sft,
    trained,
)

__all__ = ["CLAIM"]

CLAIM = claim(
    "ddpo",
    "DDPO makes what it is rewarded for more frequent, because of the reward",
    "Black et al. (2023), arXiv:2305.13301; controls of mmalign's own",
    (
        trained("ddpo", "DDPO on the exact reward of prompts", "grpo", {}),
        trained(
            "shuffled",
            "control: the same rewards given to other pictures",
            "grpo",
            {"reward.name": "shuffled", "reward.options": {"reward": "drawings"}},
        ),
        sft(),
        guided(),
        best_of_4(),
    ),
    (
        says.must("E1", "the trained arms made equal steps", says.equal_steps("grpo", "ddpo", "shuffled")),
        says.must("L1", "the first update is on policy: ratios 1", says.first_update_is_on_policy("ddpo")),
        says.must(
            "A1",
            "bound F1 rises on held-out prompts, by both detectors",
            says.both_detectors("ddpo", "start", F1, F1_NETWORK),
        ),
        says.must(
            "A2",
            "and is above that of shuffled rewards, by both detectors",
            says.both_detectors("ddpo", "shuffled", F1, F1_NETWORK),
        ),
        *says.more_exact("ddpo"),
        says.report("A3", "and above supervised training of equal compute", says.above("ddpo", "sft", EXACT)),
        *says.above_no_training("ddpo", EXACT),
        says.report(
            "D1",
            "diversity beside the start's",
            says.shown_beside("measured/diversity", "start", "ddpo", "shuffled", "sft"),
        ),
        says.report(
            "K1",
            "distance from the start, nats per picture",
            says.shown_beside("measured/kl", "ddpo", "shuffled", "sft"),
        ),
    ),
    changes=DDPO,
    sft_steps=1000,
    quick={"grpo.max_steps": 2, "grpo.rollout_batch_size": 2, "grpo.num_generations": 2},
    equal=("grpo", "reward"),
    vary=("reward.name", "reward.options"),
    curves=("ratio/max", "clip_ratio"),
)
"""The claim, found through the registry as ``ddpo``."""
