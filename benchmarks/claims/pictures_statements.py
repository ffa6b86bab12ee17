"""How the claims about diffusion methods are judged: pairs of arms on task figures and on what was measured."""

from __future__ import annotations

from collections.abc import Callable

from mmalign.benchmarks.claims.checks import (
    Check,
    equal_steps,
    first_update_is_on_policy,
    must,
    report,
    shown_beside,
)
from mmalign.benchmarks.claims.pictures import EXACT, EXACT_NETWORK, F1, F1_NETWORK
from mmalign.claims.definition import Statement, Verdict
from mmalign.claims.results import PerStart, Results
from mmalign.claims.rules import all_of, no_gain, rises

__all__ = [
    "above",
    "above_no_training",
    "below",
    "both_detectors",
    "equal_steps",
    "f1_rises",
    "first_update_is_on_policy",
    "more_exact",
    "must",
    "nothing_from",
    "over_optimised",
    "report",
    "shown_beside",
]


def above(arm: str, other: str, metric: str, unit: str = "points") -> Check:
    """The arm's figure is above the other's, paired interval over seeds above 0."""
    return lambda results: rises(results.change(arm, other, metric), unit=unit)


def below(arm: str, other: str, metric: str, unit: str = "points") -> Check:
    """The arm's figure is below the other's."""
    return above(other, arm, metric, unit)


def both_detectors(
    arm: str, other: str, template: str, network: str, judged: Callable[[PerStart], Verdict] = rises
) -> Check:
    """The arm is above the other by each of two independent detectors, or as ``judged`` says of the change."""

    def check(results: Results) -> Verdict:
        return all_of(
            [
                ("template", judged(results.change(arm, other, template))),
                ("network", judged(results.change(arm, other, network))),
            ]
        )

    return check


def more_exact(arm: str) -> tuple[Statement, Statement]:
    """More pictures are exact than the start's and than the arm ``shuffled``'s, by both detectors: X1, X2."""
    return (
        must(
            "X1",
            "more pictures are exactly what was asked for, by both detectors",
            both_detectors(arm, "start", EXACT, EXACT_NETWORK),
        ),
        must(
            "X2",
            "and more than under shuffled rewards, by both detectors",
            both_detectors(arm, "shuffled", EXACT, EXACT_NETWORK),
        ),
    )


def f1_rises(arm: str) -> Statement:
    """Bound F1 is above the start's, by both detectors (reported): A1."""
    text = "bound F1 rises over the start, by both detectors"
    return report("A1", text, both_detectors(arm, "start", F1, F1_NETWORK))


def above_no_training(arm: str, metric: str) -> tuple[Statement, Statement]:
    """The arm's figure is above guidance 1.5 and above the best of 4 without training (reported): A4, A5."""
    return (
        report("A4", "and above guidance 1.5 without training", above(arm, "guided", metric)),
        report("A5", "and above the best of 4 by the same reward", above(arm, "best_of_4", metric)),
    )


def nothing_from(control: str, treated: str, metric: str, sign: float = 1.0) -> Check:
    """A control's gain is not reliably above 0 and below a quarter of the treated arm's (relative to the start)."""

    def check(results: Results) -> Verdict:
        gains = {}
        for arm in (control, treated):
            before = results.per_start("start", metric)
            gap = results.change(arm, "start", metric)
            gains[arm] = {s: [sign * g / abs(b) for g, b in zip(gap[s], before[s], strict=True)] for s in gap}
        return no_gain(gains[control], gains[control], gains[treated])

    return check


def over_optimised(arm: str, reward: str, truth: str, sign: float = 1.0) -> Check:
    """The arm's reward (``sign`` times the figure) is above the start's while the truth is below."""

    def check(results: Results) -> Verdict:
        gained = {s: [sign * gap for gap in gaps] for s, gaps in results.change(arm, "start", reward).items()}
        return all_of(
            [
                ("reward", rises(gained, unit="")),
                ("truth falls", rises(results.change("start", arm, truth), unit="")),
            ]
        )

    return check
