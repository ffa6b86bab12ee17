"""IFT: steps charged with what they lead to, on the model's own predictions.  See docs/claims/iterative.md."""

from __future__ import annotations

from mmalign.benchmarks.claims.iterative import (
    KL,
    LENGTH,
    claim,
    equal_work,
    gains_nothing,
    improves,
    must,
    report,
    trained,
)

__all__ = ["CLAIM"]

SUCCESS, MOVES = "toy-lake@T1/success", "toy-lake@T1/moves"


CLAIM = claim(
    "ift",
    "IFT learns more from demonstrations than supervised training",
    "Hua et al. (2024), arXiv:2405.11870; statements of mmalign's own",
    (
        trained("ift", "lambda 0.2, gamma 0.95, the released settings", {}),
        trained("detached", "the same without a gradient through the weights", {"iterate.ift_detach": True}),
        trained("blend_only", "gamma 0: no charging of later losses", {"iterate.ift_gamma": 0.0}),
        trained("weights_only", "lambda 0: no reading of its own predictions", {"iterate.ift_lambda": 0.0}),
        trained("sft_more", "lambda 0 and gamma 0: supervised training for as many steps",
                {"iterate.ift_lambda": 0.0, "iterate.ift_gamma": 0.0}),
        trained("shuffled", "control: demonstrations permuted among prompts", {"iterate.shuffle_labels": True}),
    ),
    (
        must("E1", "the arms made equal steps",
             equal_work("ift", "detached", "blend_only", "weights_only", "sft_more", "shuffled")),
        must("I1", "more paths arrive than from the start, paired interval above 0", improves("ift", metric=SUCCESS)),
        must("I2", "permuted demonstrations gain nothing", gains_nothing("shuffled", "ift", SUCCESS)),
        must("I3", "more paths arrive than after supervised training on the same rows and steps",
             improves("ift", "sft_more", SUCCESS)),
        report("T1", "the weighting alone does", improves("weights_only", "sft_more", SUCCESS)),
        report("T2", "the blend alone does", improves("blend_only", "sft_more", SUCCESS)),
        report("T3", "weights without gradient do", improves("detached", "sft_more", SUCCESS)),
    ),
    vary=("iterate.shuffle_labels", "iterate.ift_lambda", "iterate.ift_gamma", "iterate.ift_detach"),
    changes={
        "data.world": "toy-lake",
        "evaluate.tasks": ["toy-lake"],
        "iterate.label": "data",
        "iterate.select": "data",
        "iterate.update": "ift",
        "iterate.iterations": 4,
        "iterate.prompts": 128,
    },
    tables={"arrives T=1": SUCCESS, "moves": MOVES, "KL nats": KL, "length steps": LENGTH},
)  # fmt: skip
"""The claim, found through the registry as ``ift``."""
