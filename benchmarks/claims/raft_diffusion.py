"""RAFT on a diffusion model: supervised rounds on the best of K pictures.  See docs/claims/diffusion.md."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from mmalign.benchmarks.claims import pictures_statements as says
from mmalign.benchmarks.claims.pictures import (
    EXACT,
    EXACT_NETWORK,
    WEIGHTED,
    best_of_4,
    claim,
    guided,
    sft,
    trained,
)
from mmalign.claims.definition import Verdict
from mmalign.claims.results import Results
from mmalign.claims.rules import at_least

__all__ = ["CLAIM"]

RAFT = {
    "model.options": {**WEIGHTED, "score": "denoising"},
    "iterate.iterations": 2,
    "iterate.updates": 250,
    "iterate.prompts": 512,
    "iterate.num_generations": 8,
    "iterate.learning_rate": 1e-3,
    "iterate.lr_scheduler_type": "cosine",
    "iterate.batch_size": 64,
    "iterate.per_device_train_batch_size": 64,
    "iterate.rollout_batch_size": 64,
    "iterate.max_completion_length": 10,
    "iterate.n_heldout": 32,
    "iterate.save_steps": 1000,
    "evaluate.options": {"guidance_scale": 1.5},
}
"""Two large rounds: in six of 128 prompts each learns the blur of the last, and 48 updates in each are too few.  Every
arm is decoded at guidance 1.5, on validation prompts the best of those tried for the start and the aligned policy."""
TRUTH = "measured/truth/template"
FEW = 3
"""Seeds of arms that are only held against RAFT."""
AIM = 0.15
"""Points of exactly right pictures that one aims for."""


def keeps_the_better_half(results: Results) -> Verdict:
    """In every round of every cell what is kept has at least the mean reward of all, and every prompt keeps one."""
    gaps, used = [], []
    for cell in results.cells("raft"):
        kept, every = (
            results.curve("raft", "iterate", f"collect/{name}", cell) for name in ("selected", "reward")
        )
        gaps += [a - b for a, b in zip(kept, every, strict=True)]
        used += results.curve("raft", "iterate", "collect/prompts_used", cell)
    good = min(gaps) >= -1e-6 and min(used) == 1.0
    text = f"least gap {min(gaps):.3g} reward over {len(gaps)} rounds; prompts used {min(used):.3g}"
    return Verdict("holds" if good else "fails", min(gaps), text=text)


CLAIM = claim(
    "raft-diffusion",
    "RAFT raises the reward of drawn pictures, because of the reward",
    "Dong et al. (2023), arXiv:2304.06767; statements of mmalign's own",
    (
        trained("raft", "denoising loss on the best of 8 pictures", "iterate", {}),
        trained(
            "shuffled",
            "control: rewards permuted among all pictures",
            "iterate",
            {"iterate.shuffle_labels": True},
        ),
        replace(
            trained("random", "control: one of the 8 at random", "iterate", {"iterate.select": "random"}),
            first_seeds=FEW,
        ),
        replace(sft(), first_seeds=FEW),
        guided(1.0, "unguided"),
        best_of_4(),
    ),
    (
        says.must(
            "E1",
            "the trained arms made equal steps",
            says.equal_steps("iterate", "raft", "shuffled", "random"),
        ),
        says.must(
            "S1", "what is kept is at least as good as all, and keeps every prompt", keeps_the_better_half
        ),
        says.must(
            "R1",
            "the reward ends above that of training on random pictures",
            says.above("raft", "random", TRUTH, "reward"),
        ),
        says.must(
            "R2", "and above that of shuffled rewards", says.above("raft", "shuffled", TRUTH, "reward")
        ),
        *says.more_exact("raft"),
        says.report(
            "X3",
            "by 15 points or more, by both detectors",
            says.both_detectors(
                "raft", "start", EXACT, EXACT_NETWORK, partial(at_least, threshold=AIM, unit="points")
            ),
        ),
        says.report("R3", "and above the start's", says.above("raft", "start", TRUTH, "reward")),
        says.f1_rises("raft"),
        says.report(
            "A3",
            "and above supervised training on real pictures of equal compute",
            says.above("raft", "sft", EXACT),
        ),
        says.report("A4", "and above the start without guidance", says.above("raft", "unguided", EXACT)),
        says.report(
            "A5", "and above the best of 4 by the same reward", says.above("raft", "best_of_4", EXACT)
        ),
        says.report(
            "D1",
            "diversity beside the start's",
            says.shown_beside("measured/diversity", "start", "raft", "random", "shuffled"),
        ),
        says.report(
            "K1",
            "distance from the start, nats per picture",
            says.shown_beside("measured/kl", "raft", "shuffled", "random", "sft"),
        ),
    ),
    changes=RAFT,
    sft_steps=900,
    quick={
        "iterate.iterations": 1,
        "iterate.updates": 2,
        "iterate.prompts": 4,
        "iterate.num_generations": 2,
        "iterate.batch_size": 4,
        "iterate.n_heldout": 4,
    },
    equal=("iterate", "reward"),
    vary=("iterate.shuffle_labels", "iterate.select"),
)
"""The claim, found through the registry as ``raft-diffusion``."""
