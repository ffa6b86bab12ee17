"""Nash-MD: a policy that no other beats, where preferences go in a circle.  See docs/claims/iterative.md."""

from __future__ import annotations

from mmalign.benchmarks.claims.iterative import KL, LENGTH, claim, equal_work, must, report, trained
from mmalign.benchmarks.claims.nash_games import TAU, exact_games, exploitability
from mmalign.claims.definition import Arm, Statement, Verdict
from mmalign.claims.results import PerStart, Results
from mmalign.claims.rules import rises

__all__ = ["CLAIM"]

DPO = {"iterate.select": "best_worst", "iterate.update": "pair", "iterate.reference": "previous"}


def _of(results: Results, arm: str, key: str, file: str = "nash.json") -> PerStart:
    found: dict[str, list[float]] = {}
    for cell in results.cells(arm):
        found.setdefault(cell.start, []).append(float(results.document(arm, file, cell)[key]))
    return found


def _less(ours: PerStart, theirs: PerStart) -> Verdict:
    return rises({s: [b - a for a, b in zip(ours[s], theirs[s], strict=True)] for s in ours}, unit="")


def closer(ident: str, arm: str, other: str, key: str = "gap") -> Statement:
    """A statement that one arm is less exploitable than another."""
    return must(
        ident,
        f"the regularised gap of {arm} is below that of {other}",
        lambda results: _less(_of(results, arm, key), _of(results, other, key)),
    )


def games(ident: str, ours: str, theirs: str) -> Statement:
    """The same on random games, solved exactly."""
    return must(
        ident,
        f"on random games, solved exactly, {ours} is less exploitable than {theirs}",
        lambda results: _less(
            _of(results, "games", ours, "games.json"), _of(results, "games", theirs, "games.json")
        ),
    )


def gap_falls_from_start(results: Results) -> Verdict:
    """Nash-MD's gap against the start's."""
    return _less(_of(results, "nash", "gap"), _of(results, "base", "gap"))


CLAIM = claim(
    "nash-md",
    "Nash-MD approaches the equilibrium of circular preferences, where rewards and self-play do not",
    "Munos et al. (2023), arXiv:2312.00886; statements of mmalign's own",
    (
        Arm("base", kind="baseline", stages=(), reuses="start", job=exploitability, weight=0.1,
            text="the start's own exploitability"),
        trained("nash", "policy gradient against the mixture (0.125), tau 0.1", {}, job=exploitability),
        trained("self_play", "control: mixture 0 and tau 0", {"iterate.mixture": 0.0, "iterate.kl_coef": 0.0},
                job=exploitability),
        trained("dpo", "online DPO on the same judge's mean wins", DPO, job=exploitability),
        trained("shuffled", "control: preferences permuted among all answers", {"iterate.shuffle_labels": True},
                job=exploitability),
        Arm("games", kind="baseline", stages=(), reuses="start", job=exact_games, weight=0.3,
            text="20 random games per seed, solved exactly"),
    ),
    (
        must("E1", "the arms made equal steps on equal samples", equal_work("nash", "self_play", "dpo", "shuffled")),
        must("N1", "the regularised gap falls from the start's", gap_falls_from_start),
        closer("N2", "nash", "self_play"),
        closer("N3", "nash", "dpo"),
        closer("N4", "nash", "shuffled"),
        games("G1", "nash_md", "self_play"),
        games("G2", "nash_md", "bradley_terry"),
        report("T1", "without regularisation too, nash is less exploitable than self-play",
               lambda results: _less(_of(results, "nash", "plain"), _of(results, "self_play", "plain"))),
        report("T2", "it ends nearer to the start than self-play",
               lambda results: _less(results.per_start("nash", KL), results.per_start("self_play", KL))),
    ),
    vary=("iterate.shuffle_labels", "iterate.mixture", "iterate.kl_coef", "iterate.select", "iterate.update",
          "iterate.reference"),
    changes={
        "feedback.judge": "toy-cycle",
        "iterate.label": "judge",
        "iterate.select": "all",
        "iterate.update": "nash",
        "iterate.mixture": 0.125,
        "iterate.kl_coef": TAU,
        "iterate.iterations": 40,
        "iterate.updates": 1,
        "iterate.prompts": 64,
        "iterate.num_generations": 4,
        "iterate.batch_size": 256,
        "iterate.n_heldout": 32,
    },
    tables={"accuracy T=1": "toy@T1/accuracy", "KL nats": KL, "length steps": LENGTH},
)  # fmt: skip
"""The claim, found through the registry as ``nash-md``."""
