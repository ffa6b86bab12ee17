"""How the claims about diffusion methods are judged: pairs of arms on task figures and on what was measured."""

from __future__ import annotations

from collections.abc import Callable

from mmalign.claims.definition import Statement, Verdict
from mmalign.claims.results import PerStart, Results
from mmalign.claims.rules import all_of, no_gain, over_seeds, rises, undecided

__all__ = [
    "above",
    "below",
    "both_detectors",
    "equal_steps",
    "first_update_is_on_policy",
    "must",
    "nothing_from",
    "over_optimised",
    "report",
    "shown_beside",
]

Check = Callable[[Results], Verdict]


def must(ident: str, text: str, check: Check) -> Statement:
    """A statement that has to hold."""
    return Statement(ident, text, True, check)


def report(ident: str, text: str, check: Check) -> Statement:
    """A statement that is measured and reported."""
    return Statement(ident, text, False, check)


def _ran(results: Results, arms: tuple[str, ...]) -> list[str]:
    """The named arms that this run has (``--arms`` leaves some out)."""
    known = {arm.name for arm in results.arms()}
    return [arm for arm in arms if arm in known]


def _gap(results: Results, arm: str, other: str, metric: str) -> PerStart:
    """``arm - other`` per start and seed; task figures are checked to be of the same rows."""
    if "@" in metric:
        return results.change(arm, other, metric)
    ours, theirs = results.per_start(arm, metric), results.per_start(other, metric)
    return {s: [a - b for a, b in zip(ours[s], theirs[s], strict=True)] for s in ours}


def above(arm: str, other: str, metric: str, unit: str = "points") -> Check:
    """The arm's figure is above the other's, paired interval over seeds above 0."""
    return lambda results: rises(_gap(results, arm, other, metric), unit=unit)


def below(arm: str, other: str, metric: str, unit: str = "points") -> Check:
    """The arm's figure is below the other's."""
    return above(other, arm, metric, unit)


def both_detectors(arm: str, other: str, template: str, network: str) -> Check:
    """The arm is above the other by each of two independent detectors."""

    def check(results: Results) -> Verdict:
        return all_of(
            [
                ("template", rises(_gap(results, arm, other, template))),
                ("network", rises(_gap(results, arm, other, network))),
            ]
        )

    return check


def nothing_from(control: str, treated: str, metric: str, sign: float = 1.0) -> Check:
    """A control's gain is not reliably above 0 and below a quarter of the treated arm's (relative to the start)."""

    def check(results: Results) -> Verdict:
        gains = {}
        for arm in (control, treated):
            before = results.per_start("start", metric)
            gap = _gap(results, arm, "start", metric)
            gains[arm] = {s: [sign * g / abs(b) for g, b in zip(gap[s], before[s], strict=True)] for s in gap}
        return no_gain(gains[control], gains[control], gains[treated])

    return check


def equal_steps(stage: str, *arms: str) -> Check:
    """Those of the named arms that ran made the same number of optimiser steps of a stage in every cell."""

    def check(results: Results) -> Verdict:
        sign = "rewards/mean" if stage == "grpo" else "loss"  # a step over the KL budget has no loss
        ran = _ran(results, arms)
        seen = {len(results.curve(arm, stage, sign, cell)) for arm in ran for cell in results.cells(arm)}
        if len(seen) != 1 or 0 in seen:
            return Verdict("fails", text=f"steps differ: {sorted(seen)}")
        return Verdict("holds", float(next(iter(seen))), text=f"{next(iter(seen))} steps everywhere")

    return check


def first_update_is_on_policy(arm: str, limit: float = 0.02) -> Check:
    """Recomputed log-probabilities equal the sampler's: the first step's ratio stays within ``limit`` of 1."""

    def check(results: Results) -> Verdict:
        firsts = [results.curve(arm, "grpo", "ratio/max", cell)[:1] for cell in results.cells(arm)]
        if not all(firsts):
            return undecided(f"{arm}: has no ratios")
        worst = max(abs(first[0] - 1.0) for first in firsts)
        text = f"largest distance of the first step's ratio from 1: {worst:.2g}"
        return Verdict("holds" if worst <= limit else "fails", worst, text=text)

    return check


def over_optimised(arm: str, reward: str, truth: str, sign: float = 1.0) -> Check:
    """The arm's reward (``sign`` times the figure) is above the start's while the truth is below."""

    def check(results: Results) -> Verdict:
        gained = {s: [sign * gap for gap in gaps] for s, gaps in _gap(results, arm, "start", reward).items()}
        return all_of(
            [
                ("reward", rises(gained, unit="")),
                ("truth falls", rises(_gap(results, "start", arm, truth), unit="")),
            ]
        )

    return check


def shown_beside(metric: str, *arms: str) -> Check:
    """Means over seeds of one figure, side by side, of the arms that ran; holds when all of them are known."""

    def check(results: Results) -> Verdict:
        values = {arm: over_seeds(results.per_start(arm, metric)).value for arm in _ran(results, arms)}
        text = ", ".join(f"{arm} {value:.3g}" for arm, value in values.items() if value is not None)
        return Verdict("holds", text=text)

    return check
