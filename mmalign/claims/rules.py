"""Rules that turn numbers per start and seed into a verdict; each is a pure function.

The unit of every interval is the **seed**: values of one seed are averaged over the starts first
(starts that share a seed share their random streams, so counting them apart would promise too
much).  A threshold has to be reached at **every start** by the mean over its seeds, so a strong
start cannot carry a weak one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from mmalign.claims.definition import Verdict
from mmalign.claims.results import PerStart
from mmalign.stats.intervals import Interval, t_interval

__all__ = ["all_of", "at_least", "no_gain", "over_seeds", "rises", "seed_means", "undecided"]


def seed_means(values: PerStart) -> list[float]:
    """One number per seed: the mean over the starts.

    Raises:
        ValueError: when the starts have different numbers of seeds.
    """
    columns = list(values.values())
    if len({len(column) for column in columns}) > 1:
        raise ValueError(f"starts with different numbers of seeds: {sorted(values)}")
    return [math.fsum(numbers) / len(numbers) for numbers in zip(*columns, strict=True)]


def over_seeds(values: PerStart) -> Interval:
    """Mean over seeds of :func:`seed_means` with its 95 % t interval (none for a single seed)."""
    return t_interval(seed_means(values))


def undecided(reason: str) -> Verdict:
    """The verdict of a statement that could not be checked."""
    return Verdict("inconclusive", text=reason)


def at_least(values: PerStart, threshold: float, *, unit: str = "%", significant: bool = True) -> Verdict:
    """Holds when every start's mean over seeds reaches ``threshold`` and the interval lies above 0.

    ``fails`` when a start's mean falls short; ``inconclusive`` when all means reach it but the
    interval over seeds includes 0 or there is one seed only (``significant=False`` waives this).

    Args:
        values: improvements, larger is better (a fall of 40 % is 0.4).
        threshold: what every start has to reach.
        unit: ``%`` prints 0.4 as 40.0 %, ``points`` as 40.0 points, anything else plainly.
        significant: whether the interval has to lie above 0.
    """
    if not _finite(values):
        return undecided("a value is not finite")
    interval = over_seeds(values)
    means = {start: math.fsum(column) / len(column) for start, column in values.items()}
    short = min(means.values()) < threshold
    clear = not significant or (interval.ci_low is not None and interval.ci_low > 0)
    verdict = "fails" if short else "holds" if clear else "inconclusive"
    each = ", ".join(f"{start} {shown(mean, unit)}" for start, mean in means.items())
    text = f"{shown(interval.value, unit)}{spread(interval, unit)} against {shown(threshold, unit)} ({each})"
    return _made(verdict, interval, text)


def rises(values: PerStart, *, unit: str = "points") -> Verdict:
    """Holds when the 95 % interval over seeds of a change lies wholly above 0; fails when its mean is not."""
    if not _finite(values):
        return undecided("a value is not finite")
    interval = over_seeds(values)
    assert interval.value is not None
    if interval.value <= 0:
        verdict = "fails"
    else:
        verdict = "holds" if interval.ci_low is not None and interval.ci_low > 0 else "inconclusive"
    return _made(verdict, interval, f"{shown(interval.value, unit)}{spread(interval, unit)}")


def no_gain(score: PerStart, control_fall: PerStart, treated_fall: PerStart, share: float = 0.25) -> Verdict:
    """Holds when a control gains nothing: two conditions, both on means over seeds.

    1. its score's change is not reliably positive: the 95 % interval reaches 0 or below;
    2. its fall in errors stays below ``share`` of the treated arm's fall.

    ``fails`` when either is broken; ``inconclusive`` with one seed, or when the treated arm itself
    did not improve (then a control proves nothing).

    Args:
        score: change of the score (fact-F1) of the control against the start.
        control_fall: relative fall of the error rate under the control, positive is better.
        treated_fall: the same of the arm that the control is held against.
        share: the largest share of the treated arm's fall that counts as nothing.
    """
    if not (_finite(score) and _finite(control_fall) and _finite(treated_fall)):
        return undecided("a value is not finite")
    gain, fall, treated = over_seeds(score), over_seeds(control_fall), over_seeds(treated_fall)
    assert gain.value is not None and fall.value is not None and treated.value is not None
    text = (
        f"score {shown(gain.value, 'points')}{spread(gain, 'points')}; errors fall {shown(fall.value, '%')} "
        f"against {shown(treated.value, '%')} of the treated arm"
    )
    if treated.value <= 0:
        return _made(
            "inconclusive", gain, f"{text}; the treated arm did not improve, so there is nothing to explain"
        )
    if fall.value >= share * treated.value:
        return _made("fails", gain, text)
    if gain.ci_low is None:
        return _made("inconclusive", gain, f"{text}; one seed gives no interval")
    return _made("fails" if gain.ci_low > 0 else "holds", gain, text)


def all_of(named: Sequence[tuple[str, Verdict]]) -> Verdict:
    """Holds when every part holds; fails when one fails.  The numbers shown are the worst part's."""
    rank = {"fails": 0, "inconclusive": 1, "holds": 2}
    worst_rank = min(rank[part.verdict] for _, part in named)
    candidates = [part for _, part in named if rank[part.verdict] == worst_rank]
    worst = min(candidates, key=lambda part: math.inf if part.value is None else part.value)
    text = "; ".join(f"{name}: {part.verdict}, {part.text}" for name, part in named)
    return Verdict(worst.verdict, worst.value, worst.ci_low, worst.ci_high, text)


def shown(value: float | None, unit: str) -> str:
    """A number for people: shares as per cent or points, others with three digits."""
    if value is None:
        return "n/a"
    if unit in ("%", "points"):
        return f"{100 * value:.1f} {unit}"
    return f"{value:.3g}{f' {unit}' if unit else ''}"


def spread(interval: Interval, unit: str) -> str:
    """``[low, high]`` for people, or a note that there is no interval."""
    if interval.ci_low is None or interval.ci_high is None:
        return " [one seed, no interval]"
    factor = 100 if unit in ("%", "points") else 1
    return f" [{factor * interval.ci_low:.3g}, {factor * interval.ci_high:.3g}]"


def _made(verdict: str, interval: Interval, text: str) -> Verdict:
    return Verdict(verdict, interval.value, interval.ci_low, interval.ci_high, text)  # type: ignore[arg-type]


def _finite(values: PerStart) -> bool:
    numbers = [number for column in values.values() for number in column]
    return bool(numbers) and all(math.isfinite(number) for number in numbers)
