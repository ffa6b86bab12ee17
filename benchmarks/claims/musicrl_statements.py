"""What the claim about MusicRL says, and how each sentence is judged."""

from __future__ import annotations

from dataclasses import dataclass

from mmalign.benchmarks.claims.checks import (
    Check,
    first_update_is_on_policy,
    must,
    report,
    shown_beside,
)
from mmalign.claims.definition import Statement, Verdict
from mmalign.claims.results import PerStart, Results
from mmalign.claims.rules import all_of, at_least, no_gain, over_seeds, rises, shown, spread

__all__ = ["ALIGNED", "statements"]

ALIGNED = "tunes@T{t}/{name}"
"""A metric's name at a temperature."""
_FAD, _MOS = 0.1, 0.1
"""What counts as not worse: a tenth of a MOS point, a tenth of a squared standard deviation of FAD."""


def statements(start_t: float, aligned_t: float) -> tuple[Statement, ...]:
    """The statements, with the temperatures at which start and aligned policies are decoded."""
    at = _At(start_t, aligned_t)
    return (*_must_hold(at), *_reported(at))


@dataclass(frozen=True, slots=True)
class _At:
    """Comparisons of arms at the temperatures at which they were decoded."""

    start: float
    aligned: float

    def above(self, arm: str, other: str, temperature: float) -> Check:
        """The arm's adherence is above the other's."""
        ours, theirs = (arm, self.aligned), (other, temperature)
        return lambda results: rises(_gap(results, ours, theirs, "adherence/all"))

    def both(self, arm: str, other: str, temperature: float) -> Check:
        """And so it is by the judge's net and by signal processing."""
        ours, theirs = (arm, self.aligned), (other, temperature)

        def check(results: Results) -> Verdict:
            names = (("net", "adherence/all"), ("signal", "adherence_measured/all"))
            return all_of([(said, rises(_gap(results, ours, theirs, name))) for said, name in names])

        return check

    def gain(self, results: Results, arm: str) -> PerStart:
        """The arm's adherence less that of the start at its best."""
        return _gap(results, (arm, self.aligned), ("start_best", self.start), "adherence/all")

    def nothing(self, control: str) -> Check:
        """The control's gain is nothing beside R's."""

        def check(results: Results) -> Verdict:
            own = self.gain(results, control)
            return no_gain(own, own, self.gain(results, "r"))

        return check


def _must_hold(at: _At) -> tuple[Statement, ...]:
    return (
        must(
            "E1",
            "the trained arms drew equally many pieces",
            _equal_rollouts("r", "shuffled", "captions", "ru"),
        ),
        must("L1", "the first update is on policy: ratios 1", first_update_is_on_policy("r")),
        must(
            "A1",
            "R follows captions better than the start, each decoded at its best, by net and by signal processing",
            at.both("r", "start_best", at.start),
        ),
        must(
            "Q1", "and sounds no worse: MOS and FAD on four times the captions", _no_worse("r", "start_best")
        ),
        must("S1", "R is above shuffled rewards at the same KL budget", at.both("r", "shuffled", at.aligned)),
        must("S2", "and above rewards for other captions", at.both("r", "captions", at.aligned)),
        must("S3", "shuffled rewards gain nothing", at.nothing("shuffled")),
        must("S4", "rewards for other captions gain nothing", at.nothing("captions")),
    )


def _reported(at: _At) -> tuple[Statement, ...]:
    kl = shown_beside("measured/kl", "r", "shuffled", "captions", "u", "ru")
    return (
        report(
            "A2",
            "the gain is 15 points or more",
            lambda results: at_least(at.gain(results, "r"), 0.15, unit="points"),
        ),
        report("B1", "R is above the start sampled as it is", at.above("r", "start", 1.0)),
        report("B2", "above guidance alone", at.above("r", "guided", 1.0)),
        report("B3", "above a lower temperature alone", at.above("r", "cool", at.start)),
        report("B4", "above the best of 4 by R", at.above("r", "best_of_4", at.start)),
        report("B5", "above supervised training of equal compute", at.above("r", "sft", at.start)),
        report("U1", "U: the users' taste rises and captions are forgotten", _hacked("u")),
        report(
            "U2", "RU: taste above R's, at 95 % of R's adherence or more", _both_kept("ru", "r", at.aligned)
        ),
        report("K1", "KL, nats per piece", kl),
        report("D1", "diversity", _beside("diversity", at)),
        report("D2", "level, dB", _beside("level_db", at)),
        report("D3", "FAD", _beside("fad", at)),
        report("D4", "FAD of as many real pieces", _beside("fad_floor", at)),
    )


def _gap(results: Results, arm: tuple[str, float], other: tuple[str, float], name: str) -> PerStart:
    (ours, t), (theirs, other_t) = arm, other
    metric, baseline = (ALIGNED.format(t=f"{x:g}", name=name) for x in (t, other_t))
    return results.change(ours, theirs, metric, baseline_metric=baseline)


def _equal_rollouts(*arms: str) -> Check:
    def check(results: Results) -> Verdict:
        seen = {len(results.curve(arm, "grpo", "kl", cell)) for arm in arms for cell in results.cells(arm)}
        if len(seen) != 1 or 0 in seen:
            return Verdict("fails", text=f"rollouts differ: {sorted(seen)}")
        return Verdict("holds", float(next(iter(seen))), text=f"{next(iter(seen))} rollouts everywhere")

    return check


def _no_worse(arm: str, other: str) -> Check:
    """Mean changes within the margins; fails beyond one, with the interval shown."""

    def check(results: Results) -> Verdict:
        parts = []
        for name, sign, margin in (("mos", 1.0, _MOS), ("fad", -1.0, _FAD)):
            gaps = {s: [sign * x for x in xs] for s, xs in _measured(results, arm, other, name).items()}
            found = over_seeds(gaps)
            assert found.value is not None
            verdict = "holds" if found.value >= -margin else "fails"
            text = f"better by {shown(found.value, '')}{spread(found, '')}, margin {margin:g}"
            parts.append((name, Verdict(verdict, found.value, found.ci_low, found.ci_high, text)))  # type: ignore[arg-type]
        return all_of(parts)

    return check


def _measured(results: Results, arm: str, other: str, name: str) -> PerStart:
    return results.change(arm, other, f"measured/{name}")


def _hacked(arm: str) -> Check:
    def check(results: Results) -> Verdict:
        return all_of(
            [
                ("taste", rises(_measured(results, arm, "start", "taste"), unit="")),
                ("truth falls", rises(_measured(results, "start", arm, "truth"))),
            ]
        )

    return check


def _both_kept(arm: str, other: str, t: float) -> Check:
    def check(results: Results) -> Verdict:
        name = ALIGNED.format(t=f"{t:g}", name="adherence/all")
        theirs = results.per_start(other, name)
        kept = {  # an arm with fewer seeds has the first of them
            s: [a / b - 0.95 for a, b in zip(values, theirs[s][: len(values)], strict=True)]
            for s, values in results.per_start(arm, name).items()
        }
        return all_of(
            [
                ("taste", rises(_measured(results, arm, other, "taste"), unit="")),
                ("adherence beyond 95 %", at_least(kept, 0.0, significant=False)),
            ]
        )

    return check


def _beside(name: str, at: _At) -> Check:
    """One figure of the decoded pieces, arm by arm."""
    shows = {"start": 1.0, "start_best": at.start, "best_of_4": at.start, "sft": at.start}
    shows |= dict.fromkeys(("r", "shuffled", "captions", "u", "ru"), at.aligned)

    def check(results: Results) -> Verdict:
        parts = []
        for arm, t in shows.items():
            value = over_seeds(results.per_start(arm, ALIGNED.format(t=f"{t:g}", name=name))).value
            parts.append(f"{arm} {value:.3g}")
        return Verdict("holds", text=", ".join(parts))

    return check
