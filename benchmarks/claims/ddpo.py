"""DDPO: denoising as a decision process, followed by its policy gradient.  See docs/claims/diffusion.md."""

from __future__ import annotations

from mmalign.benchmarks.claims import pictures_statements as says
from mmalign.benchmarks.claims.pictures import DDPO, EXACT, NETWORK, best_of_4, claim, guided, sft, trained

__all__ = ["CLAIM"]

JPEG = "measured/jpeg"
_SMALL = {"reward.name": "jpeg_compressibility"}

CLAIM = claim(
    "ddpo",
    "DDPO makes what it is rewarded for more frequent, because of the reward",
    "Black et al. (2023), arXiv:2305.13301; controls of mmalign's own",
    (
        trained("small", "DDPO on minus the size as a JPEG file", "grpo", _SMALL),
        trained(
            "small_shuffled",
            "control: the same sizes given to other pictures",
            "grpo",
            {"reward.name": "shuffled", "reward.options": {"reward": "jpeg_compressibility"}},
        ),
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
        says.must(
            "E1",
            "the trained arms made equal steps",
            says.equal_steps("grpo", "small", "small_shuffled", "ddpo", "shuffled"),
        ),
        says.must("L1", "the first update is on policy: ratios 1", says.first_update_is_on_policy("small")),
        says.must(
            "J1",
            "pictures get smaller when small ones are rewarded",
            says.below("small", "start", JPEG, "kB"),
        ),
        says.must(
            "J2",
            "the same sizes given to other pictures do nothing",
            says.nothing_from("small_shuffled", "small", JPEG, -1.0),
        ),
        says.report(
            "J3",
            "pictures end smaller than those of shuffled sizes",
            says.below("small", "small_shuffled", JPEG, "kB"),
        ),
        says.report(
            "A1",
            "bound F1 rises under the exact reward, by both detectors",
            says.both_detectors("ddpo", "start", EXACT, NETWORK),
        ),
        says.report(
            "A2",
            "and is above that of shuffled rewards",
            says.both_detectors("ddpo", "shuffled", EXACT, NETWORK),
        ),
        says.report("A3", "and above supervised training of equal compute", says.above("ddpo", "sft", EXACT)),
        says.report("A4", "and above guidance 1.5 without training", says.above("ddpo", "guided", EXACT)),
        says.report(
            "A5", "and above the best of 4 by the same reward", says.above("ddpo", "best_of_4", EXACT)
        ),
        says.report(
            "O1",
            "small pictures are drawn worse: reward up, truth down",
            says.over_optimised("small", JPEG, "measured/truth/network", -1.0),
        ),
        says.report(
            "D1",
            "diversity beside the start's",
            says.shown_beside("measured/diversity", "start", "ddpo", "small", "shuffled"),
        ),
        says.report(
            "K1",
            "distance from the start, nats per picture",
            says.shown_beside("measured/kl", "ddpo", "shuffled", "small", "small_shuffled", "sft"),
        ),
    ),
    changes=DDPO,
    sft_steps=58,
    quick={"grpo.max_steps": 2, "grpo.rollout_batch_size": 2, "grpo.num_generations": 2},
    equal=("grpo", "reward"),
    vary=("reward.name", "reward.options"),
    curves=("ratio/max", "clip_ratio"),
)
"""The claim, found through the registry as ``ddpo``."""
