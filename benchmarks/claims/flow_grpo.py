"""Flow-GRPO: the flow's ODE as an SDE of the same marginals, followed by GRPO.  See docs/claims/diffusion.md."""

from __future__ import annotations

from functools import partial

from mmalign.benchmarks.claims import pictures_statements as says
from mmalign.benchmarks.claims.pictures import (
    DDPO,
    F1,
    F1_NETWORK,
    WEIGHTED,
    best_of_4,
    claim,
    guided,
    sft,
    trained,
)

__all__ = ["CLAIM"]

CLIP = "measured/clip"
_SDE = {**WEIGHTED, "sampler": "sde"}
FLOW = {
    **DDPO,
    "grpo.max_steps": 24,
    "grpo.rollout_batch_size": 16,
    "model.options": {**_SDE, "train_until": 0.5},
    "reward.name": "clip",
    "grpo.kl_coef": 1e-4,
    "grpo.kl_estimator": "exact",
    "grpo.kl_ratio_correction": False,
}
"""Flow-GRPO as a setting of stage ``grpo``: the SDE, the exact KL in the loss, one standard deviation for the batch."""
_FEW = {
    "model.options": {**_SDE, "num_inference_steps": 5, "train_until": 0.5},
    "evaluate.options": {"num_inference_steps": 10},
}

_trained = partial(trained, clip=True)

CLAIM = claim(
    "flow-grpo",
    "Flow-GRPO raises its reward through the SDE, and a few training steps serve a longer sampler",
    "Liu et al. (2025), arXiv:2505.05470; on a noise-predicting model seen as a flow; controls of mmalign's own",
    (
        _trained("flow", "Flow-GRPO on the CLIP reward", "grpo", {}),
        _trained(
            "few", "the same trained on 5 denoising steps, evaluated on 10", "grpo", _FEW, kind="baseline"
        ),
        _trained("free", "the same without the KL", "grpo", {"grpo.kl_coef": 0.0}),
        _trained(
            "shuffled",
            "control: the same rewards given to other pictures",
            "grpo",
            {"reward.name": "shuffled", "reward.options": {"reward": "clip"}},
        ),
        sft(clip=True),
        guided(),
        best_of_4(),
    ),
    (
        says.must(
            "E1",
            "the trained arms made equal steps",
            says.equal_steps("grpo", "flow", "few", "free", "shuffled"),
        ),
        says.must("L1", "the first update is on policy: ratios 1", says.first_update_is_on_policy("flow")),
        says.must("R1", "the CLIP reward rises on held-out prompts", says.above("flow", "start", CLIP, "")),
        says.must("R2", "shuffled rewards do nothing", says.nothing_from("shuffled", "flow", CLIP)),
        says.report(
            "R3", "training on 5 steps raises the reward at 10 as well", says.above("few", "start", CLIP, "")
        ),
        says.report(
            "K1",
            "the KL keeps the policy nearer to the start",
            says.below("flow", "free", "measured/kl", "nats"),
        ),
        says.report(
            "A1", "bound F1 rises, by both detectors", says.both_detectors("flow", "start", F1, F1_NETWORK)
        ),
        says.report(
            "A2",
            "and is above that of shuffled rewards",
            says.both_detectors("flow", "shuffled", F1, F1_NETWORK),
        ),
        says.report("A3", "and above supervised training of equal compute", says.above("flow", "sft", F1)),
        *says.above_no_training("flow", F1),
        says.report(
            "D1",
            "diversity beside the start's",
            says.shown_beside("measured/diversity", "start", "flow", "free", "shuffled"),
        ),
    ),
    changes=FLOW,
    sft_steps=400,
    clip=True,
    quick={"grpo.max_steps": 2, "grpo.rollout_batch_size": 2, "grpo.num_generations": 2},
    equal=("grpo", "reward"),
    vary=("reward.name", "reward.options", "grpo.kl_coef"),
)
"""The claim, found through the registry as ``flow-grpo``."""
