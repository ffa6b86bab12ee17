"""RLHF Workflow: online iterative DPO.  See docs/claims/iterative.md."""

from __future__ import annotations

from mmalign.benchmarks.claims.iterative import (
    LENGTH,
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

__all__ = ["CLAIM"]

OFFLINE = {"iterate.iterations": 1, "iterate.updates": 48, "iterate.prompts": 512}


def as_many_answers(results: Results) -> Verdict:
    """Online and offline made as many steps; offline drew all its answers from the start."""
    steps = {
        name: {len(results.curve(name, "iterate", "loss", cell)) for cell in results.cells(name)}
        for name in ("online", "offline")
    }
    same = steps["online"] == steps["offline"]
    return Verdict(
        "holds" if same else "fails", text=f"steps {sorted(steps['online'])}, {sorted(steps['offline'])}"
    )


CLAIM = claim(
    "rlhf-workflow",
    "Preference rounds on the present policy's answers beat one round on the start's",
    "Dong et al. (2024), arXiv:2405.07863; statements of mmalign's own",
    (
        trained("online", "8 rounds: best against worst of 8, DPO, reference the round's start", {}),
        trained("offline", "one round on as many answers of the start, as many steps", OFFLINE),
        trained("initial", "online with the start as reference throughout", {"iterate.reference": "initial"}),
        trained("penalised", "online, 0.2 off the reward per step", {"iterate.length_penalty": 0.2}),
        trained("shuffled", "control: rewards permuted among all answers", {"iterate.shuffle_labels": True}),
    ),
    (
        must("E1", "the online arms made equal steps on equal samples",
             equal_work("online", "initial", "penalised", "shuffled")),
        must("E2", "offline made as many steps as online", as_many_answers),
        must("W1", "accuracy rises, paired interval above 0", improves("online")),
        must("W2", "held-out reward rises in each of the first two rounds", every_round("online", "rewards/mean", 2)),
        must("W3", "online is above offline", improves("online", "offline")),
        must("W4", "shuffled rewards gain nothing", gains_nothing("shuffled", "online")),
        must("W5", "the length penalty makes answers shorter", lower("penalised", "online", LENGTH, "steps")),
        report("T1", "the previous policy as reference is above the first one", improves("online", "initial")),
        report("T2", "the penalised policy is still above the start", improves("penalised")),
    ),
    vary=("iterate.shuffle_labels", "iterate.reference", "iterate.length_penalty", "iterate.iterations",
          "iterate.updates", "iterate.prompts"),
    changes={
        "iterate.select": "best_worst",
        "iterate.update": "pair",
        "iterate.reference": "previous",
        "iterate.learning_rate": 1e-3,
    },
)  # fmt: skip
"""The claim, found through the registry as ``rlhf-workflow``."""
