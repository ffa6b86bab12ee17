"""Diffusion-DPO: compared pictures, learnt through the denoising error.  See docs/claims/diffusion.md."""

from __future__ import annotations

import math

from mmalign.benchmarks.claims import pictures_statements as says
from mmalign.benchmarks.claims.pictures import F1, F1_NETWORK, best_of_4, claim, guided, sft, trained
from mmalign.claims.definition import Verdict
from mmalign.claims.results import Results
from mmalign.claims.rules import rises

__all__ = ["CLAIM"]

DPO = {
    "dpo.max_steps": 100,
    "dpo.per_device_train_batch_size": 32,
    "dpo.learning_rate": 1e-3,
    "dpo.beta": 2000.0,
    "dpo.n_heldout": 128,
    "dpo.save_steps": 1000,
}


def ranks_held_out_pairs(results: Results) -> Verdict:
    """The implicit reward prefers the true picture of held-out pairs more often than a coin."""
    gaps: dict[str, list[float]] = {}
    for cell in results.cells("dpo"):
        found = results.document("dpo", "stages/dpo/quality.json", cell)
        gaps.setdefault(cell.start, []).append(found["accuracy"] - 0.5)
    return rises(gaps)


def starts_at_log_2(results: Results) -> Verdict:
    """The first loss is log 2: policy, reference and both pictures share their noise."""
    firsts = [results.curve("dpo", "dpo", "loss", cell)[0] for cell in results.cells("dpo")]
    worst = max(abs(first - math.log(2)) for first in firsts)
    return Verdict(
        "holds" if worst < 1e-4 else "fails", worst, text=f"largest distance from log 2: {worst:.2g}"
    )


CLAIM = claim(
    "diffusion-dpo",
    "Diffusion-DPO learns which of two pictures fits, and draws more like it",
    "Wallace et al. (2023), arXiv:2311.12908; controls of mmalign's own",
    (
        trained("dpo", "Diffusion-DPO on true pictures against pictures with one wrong fact", "dpo", {}),
        trained(
            "random",
            "control: which picture is the better one is drawn at random",
            "dpo",
            {"dpo.shuffle_labels": True},
        ),
        sft(),
        guided(),
        best_of_4(),
    ),
    (
        says.must("E1", "the trained arms made equal steps", says.equal_steps("dpo", "dpo", "random")),
        says.must("L1", "the first loss is log 2", starts_at_log_2),
        says.must("P1", "held-out pairs are ranked right more often than not", ranks_held_out_pairs),
        says.must(
            "P2",
            "bound F1 is above that of random labels, by both detectors",
            says.both_detectors("dpo", "random", F1, F1_NETWORK),
        ),
        says.f1_rises("dpo"),
        says.report(
            "A3",
            "and above supervised training on real pictures of equal compute",
            says.above("dpo", "sft", F1),
        ),
        says.report("A4", "and above guidance 1.5 without training", says.above("dpo", "guided", F1)),
        says.report("A5", "and above the best of 4 by the exact reward", says.above("dpo", "best_of_4", F1)),
        says.report(
            "D1",
            "diversity beside the start's",
            says.shown_beside("measured/diversity", "start", "dpo", "random"),
        ),
        says.report(
            "K1",
            "distance from the start, nats per picture",
            says.shown_beside("measured/kl", "dpo", "random", "sft"),
        ),
    ),
    changes=DPO,
    sft_steps=133,
    quick={"dpo.max_steps": 2, "dpo.per_device_train_batch_size": 4, "dpo.n_heldout": 4},
    equal=("dpo", "reward"),
    vary=("dpo.shuffle_labels",),
    curves=("loss", "rewards/margins"),
)
"""The claim, found through the registry as ``diffusion-dpo``."""
