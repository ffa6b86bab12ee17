"""SPIN: the policy learns to be told apart from the data no more.  See docs/claims/iterative.md."""

from __future__ import annotations

from mmalign.benchmarks.claims.iterative import (
    LENGTH,
    claim,
    equal_work,
    gains_nothing,
    improves,
    must,
    report,
    trained,
)
from mmalign.claims.definition import Verdict
from mmalign.claims.results import Results
from mmalign.claims.rules import rises

__all__ = ["CLAIM"]


def more_like_the_data(results: Results) -> Verdict:
    """Share of the policy's samples that equal the data's answer: last round less first round."""
    gaps: dict[str, list[float]] = {}
    for cell in results.cells("spin"):
        curve = results.curve("spin", "iterate", "collect/same_as_data", cell)
        gaps.setdefault(cell.start, []).append(curve[-1] - curve[0])
    return rises(gaps)


CLAIM = claim(
    "spin",
    "SPIN turns demonstrations into more than supervised training does",
    "Chen et al. (2024), arXiv:2401.01335; statements of mmalign's own",
    (
        trained("spin", "the data against the policy's sample, beta 0.1", {}),
        trained("beta_1", "the same with beta 1, where an exact round reaches the data", {"dpo.beta": 1.0}),
        trained("sft_more", "likelihood of the same demonstrations for as many steps",
                {"iterate.select": "data", "iterate.update": "nll"}),
        trained("shuffled", "control: demonstrations permuted among prompts", {"iterate.shuffle_labels": True}),
    ),
    (
        must("E1", "the arms made equal steps", equal_work("spin", "beta_1", "sft_more", "shuffled")),
        must("P1", "accuracy rises, paired interval above 0", improves("spin")),
        must("P2", "the policy's samples come to equal the data", more_like_the_data),
        must("P3", "permuted demonstrations gain nothing", gains_nothing("shuffled", "spin")),
        must("P4", "SPIN is above more supervised training on the same data", improves("spin", "sft_more")),
        report("T1", "beta 1 is above the released beta of 0.1", improves("beta_1", "spin")),
        report("T2", "beta 0.1 lengthens answers no more than beta 1", lambda r: _length(r)),
    ),
    vary=("iterate.shuffle_labels", "iterate.select", "iterate.update", "dpo.beta"),
    changes={
        "data.n_train": 32,
        "sft.max_steps": 80,
        "iterate.label": "data",
        "iterate.select": "data_policy",
        "iterate.update": "pair",
        "iterate.reference": "previous",
        "iterate.num_generations": 1,
        "iterate.prompts": 128,
    },
)  # fmt: skip
"""The claim, found through the registry as ``spin``."""


def _length(results: Results) -> Verdict:
    ours, theirs = results.per_start("spin", LENGTH), results.per_start("beta_1", LENGTH)
    return rises({s: [b - a for a, b in zip(ours[s], theirs[s], strict=True)] for s in ours}, unit="steps")
