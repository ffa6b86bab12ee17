"""DRaFT and AlignProp: the reward's gradient through the sampler.  See docs/claims/diffusion.md."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from mmalign.benchmarks.claims import pictures_statements as says
from mmalign.benchmarks.claims.pictures import F1, best_of_4, claim, guided, sft, trained
from mmalign.claims.definition import Arm

__all__ = ["CLAIM"]

CLIP, TRUTH = "measured/clip", "measured/truth/network"
REWARD = "clip_contrast"
STEPS, FEW = 48, 3
DRAFT = {
    "reward.name": REWARD,
    "pathwise.max_steps": STEPS,
    "pathwise.rollout_batch_size": 32,
    "pathwise.per_device_train_batch_size": 32,
    "pathwise.grad_steps": 10,
    "pathwise.learning_rate": 3e-4,
    "pathwise.warmup_ratio": 0.1,
    "pathwise.max_grad_norm": 0.1,
    "pathwise.sft_coef": 0.0,
    "pathwise.save_steps": 1000,
}
"""Gradients have a norm of about 0.1 and now and then one of 6: cut at 1, those alone would decide Adam's scale."""

PUSHED = {"pathwise.learning_rate": 1e-3, "pathwise.max_steps": 2 * STEPS}
LAST = {"pathwise.grad_steps": 1}

_trained = partial(trained, clip=True)


def _few(arm: Arm) -> Arm:
    """The arm on the first seeds alone: it is reported, and decides nothing that must hold."""
    return replace(arm, first_seeds=FEW)


ARMS = (
    _trained("draft", "DRaFT through all 10 steps", "pathwise", {}),
    _few(_trained("draft_1", "DRaFT through the last step alone", "pathwise", LAST)),
    _few(
        _trained(
            "alignprop",
            "AlignProp: the number of steps drawn around 5",
            "pathwise",
            {"pathwise.grad_steps": 5, "pathwise.grad_steps_spread": 1.5},
        )
    ),
    _few(
        _trained(
            "pushed",
            "all 10 steps, three times the learning rate, twice the steps",
            "pathwise",
            PUSHED,
            kind="baseline",
        )
    ),
    _trained("hacked", "the last step alone, pushed as far", "pathwise", {**PUSHED, **LAST}, kind="baseline"),
    _few(
        _trained(
            "anchored",
            "the same with the supervised loss on data beside the reward",
            "pathwise",
            {**PUSHED, **LAST, "pathwise.sft_coef": 1.0},
            kind="baseline",
        )
    ),
    _trained(
        "shuffled",
        "control: every picture is scored for another prompt",
        "pathwise",
        {"reward.name": "shuffled", "reward.options": {"reward": REWARD}},
    ),
    _few(sft(clip=True)),
    _few(guided()),
    _few(best_of_4()),
)
MUST = (
    says.must(
        "E1",
        "the trained arms made equal steps",
        says.equal_steps("pathwise", "draft", "draft_1", "alignprop", "shuffled"),
    ),
    says.must("R1", "the CLIP cosine rises on held-out prompts", says.above("draft", "start", CLIP, "")),
    says.must("R2", "scored for other prompts, it does not", says.nothing_from("shuffled", "draft", CLIP)),
    says.must(
        "O1",
        "pushed through the last step alone, the cosine rises while the truth falls",
        says.over_optimised("hacked", CLIP, TRUTH),
    ),
)
REPORTED = (
    says.report("X1", "truth rises with it", says.above("draft", "start", TRUTH, "")),
    says.report("X2", "and is above that of the control", says.above("draft", "shuffled", TRUTH, "")),
    says.report(
        "T1",
        "truth ends higher through all steps than through the last alone",
        says.above("draft", "draft_1", TRUTH, ""),
    ),
    says.report("T2", "AlignProp raises the cosine", says.above("alignprop", "start", CLIP, "")),
    says.report(
        "O2",
        "anchored to data, truth is above what it is without",
        says.above("anchored", "hacked", TRUTH, ""),
    ),
    says.report(
        "O3", "pushed as far through all steps, truth falls too", says.below("pushed", "start", TRUTH, "")
    ),
    says.report(
        "O4",
        "the last step alone at the ordinary rate is hacked already",
        says.over_optimised("draft_1", CLIP, TRUTH),
    ),
    says.f1_rises("draft"),
    says.report("A3", "and above supervised training of about equal compute", says.above("draft", "sft", F1)),
    *says.above_no_training("draft", F1),
    says.report(
        "D1",
        "diversity beside the start's",
        says.shown_beside("measured/diversity", "start", "draft", "pushed", "hacked", "anchored", "shuffled"),
    ),
    says.report(
        "K1",
        "distance from the start, nats per picture",
        says.shown_beside("measured/kl", "draft", "pushed", "hacked", "anchored", "shuffled", "sft"),
    ),
)

CLAIM = claim(
    "draft-alignprop",
    "A reward's gradient raises the reward fast; through the last step alone it is hacked, and the report shows it",
    "Clark et al. (2023), arXiv:2309.17400; Prabhudesai et al. (2023), arXiv:2310.03739; controls of mmalign's own",
    ARMS,
    (*MUST, *REPORTED),
    changes=DRAFT,
    sft_steps=STEPS * 32 * 43 // (3 * 64),
    clip=True,
    quick={"pathwise.max_steps": 2, "pathwise.rollout_batch_size": 4},
    equal=("pathwise", "reward"),
    vary=("reward.name", "reward.options", "pathwise.grad_steps", "pathwise.grad_steps_spread"),
)
"""The claim, found through the registry as ``draft-alignprop``."""
