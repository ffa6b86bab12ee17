"""The checks of the FGAIF claim: each turns results into one verdict.  Definitions: docs/claims/fgaif.md."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from mmalign.claims.definition import Verdict
from mmalign.claims.results import Results
from mmalign.claims.rules import all_of, at_least, no_gain, over_seeds, rises, shown
from mmalign.errors import UserError

__all__ = [
    "GREEDY",
    "SAMPLED",
    "TYPES",
    "ablation",
    "beats",
    "blanked_gains_nothing",
    "coverage_kept",
    "dense_beats_sequence",
    "every_type",
    "f1_rises",
    "falls_greedy",
    "falls_sampled",
    "identities",
    "models_accurate",
    "noise_degrades",
    "oracle_above",
    "relations_learned",
    "relations_stated",
    "shuffled_gains_nothing",
]

TYPES = ("object", "attribute", "relation")
GREEDY, SAMPLED = "scenes-captions@greedy", "scenes-captions@T1"
MODES = (("T=1", SAMPLED), ("greedy", GREEDY))
ERRORS, F1 = "hallucination/overall", "fact_f1/macro"
TOLERANCE = 1e-4
"""Rounding allowed where sums of floats must agree; what must be zero has none."""


def relations_learned(results: Results) -> Verdict:
    """P1: the start's share of right relation sentences, greedy, at every start."""
    wrong = results.per_start("sft", f"{GREEDY}/hallucination_when_stated/relation")
    sampled = results.per_start("sft", f"{SAMPLED}/hallucination_when_stated/relation")
    found = at_least(_map(wrong, lambda x: 1 - x), 0.75, significant=False)
    right = over_seeds(_map(sampled, lambda x: 1 - x)).value
    return replace(found, text=f"{found.text}; sampled {shown(right, '%')}")


def falls_sampled(results: Results) -> Verdict:
    """H1."""
    return at_least(_fall(results, "dense", SAMPLED), 0.40)


def falls_greedy(results: Results) -> Verdict:
    """H2."""
    return at_least(_fall(results, "dense", GREEDY), 0.25)


def coverage_kept(results: Results) -> Verdict:
    """H3: per type and mode, the mean change is at least -5 points at every start."""
    return _each_type(
        results, "coverage", lambda change: at_least(change, -0.05, unit="points", significant=False)
    )


def relations_stated(results: Results) -> Verdict:
    """H4: relation sentences per caption as a share of the start's, at least one half."""
    name = "relation_sentences_per_caption"
    return all_of([
        (label, at_least(_map(results.change("dense", "sft", f"{mode}/{name}", relative=True), lambda x: 1 + x), 0.5,
                         significant=False))
        for label, mode in MODES
    ])  # fmt: skip


def f1_rises(results: Results) -> Verdict:
    """H5."""
    return all_of([(label, rises(results.change("dense", "sft", f"{mode}/{F1}"))) for label, mode in MODES])


def blanked_gains_nothing(results: Results) -> Verdict:
    """H6, the blanked half; the shuffled half is T5."""
    return _gains_nothing(results, "blanked")


def shuffled_gains_nothing(results: Results) -> Verdict:
    """T5 and the shuffled half of H6."""
    return _gains_nothing(results, "shuffled")


def every_type(results: Results) -> Verdict:
    """H7: the share of wrong sentences among those that state a fact of the type rises by at most 1 point."""
    return _each_type(
        results,
        "hallucination_when_stated",
        lambda change: at_least(_map(change, lambda x: -x), -0.01, unit="points", significant=False),
    )


def identities(results: Results) -> Verdict:
    """T4: what must be zero is zero, sums agree, and the KL term costs a policy that has moved."""
    worst_zero = worst_sum = 0.0
    answers = pairs = 0
    moved, paid = [], []
    for cell in results.cells("dense"):
        found = results.document("dense", "identities.json", cell)
        worst_zero = max(
            worst_zero, *(found[k] for k in ("padding", "between", "not_applicable", "sequence_place"))
        )
        worst_sum = max(worst_sum, *(found[k] for k in ("parts", "segments", "sequence")))
        answers, pairs = answers + found["n_answers"], pairs + found["n_not_applicable"]
        moved.append(found["kl"])
        paid.append(found["kl_reward"])
    signs = all(reward < 0 < kl for kl, reward in zip(moved, paid, strict=True))
    good = worst_zero == 0.0 and worst_sum <= TOLERANCE and pairs > 0 and signs
    text = (
        f"{answers} answers, {pairs} not-applicable pairs: zeros off by {worst_zero:g}, sums by {worst_sum:.1e}, "
        f"KL {min(moved):.2f} to {max(moved):.2f} nats costs {'reward' if signs else 'nothing somewhere'}"
    )
    return Verdict("holds" if good else "fails", worst_zero, text=text)


def dense_beats_sequence(results: Results) -> Verdict:
    """T1: fewer hallucinated sentences overall and per type at coverage within 2 points, sampled."""
    overall = rises(_map(results.change("dense", "sequence", f"{SAMPLED}/{ERRORS}"), lambda x: -x))
    parts = [("overall", overall)]
    for kind in TYPES:
        errors = results.change("dense", "sequence", f"{SAMPLED}/hallucination/{kind}")
        cover = results.change("dense", "sequence", f"{SAMPLED}/coverage/{kind}")
        parts.append((kind, at_least(_map(errors, lambda x: -x), 0.0, unit="points", significant=False)))
        parts.append((f"{kind} coverage", at_least(cover, -0.02, unit="points", significant=False)))
    found = all_of(parts)
    score = over_seeds(results.change("dense", "sequence", f"{SAMPLED}/{F1}"))
    kl = [over_seeds(results.per_start(arm, "train/kl")).value for arm in ("dense", "sequence")]
    more = (
        f"; fact-F1 {shown(score.value, 'points')}; KL {shown(kl[0], 'nats')} against {shown(kl[1], 'nats')}"
    )
    return Verdict(found.verdict, overall.value, overall.ci_low, overall.ci_high, found.text + more)


def ablation(kind: str) -> Callable[[Results], Verdict]:
    """T2 for one type: its rate rises more than the other two's when its reward is left out, sampled."""

    def check(results: Results) -> Verdict:
        rise = {t: results.change(f"no_{kind}", "dense", f"{SAMPLED}/hallucination/{t}") for t in TYPES}
        others = [t for t in TYPES if t != kind]
        excess = {t: _minus(rise[kind], rise[t]) for t in others}
        verdict = all_of([(f"more than {t}", rises(excess[t])) for t in others])
        means = ", ".join(f"{t} {shown(over_seeds(rise[t]).value, 'points')}" for t in TYPES)
        return replace(verdict, text=f"rises: {means}; {verdict.text}")

    return check


def models_accurate(results: Results) -> Verdict:
    """T3: accuracy on applicable held-out segments above 90 % and above always saying the frequent label."""
    parts = []
    for kind in TYPES:
        right = _quality(results, "shared", "stages/reward_model/quality.json", kind, "accuracy")
        majority = _quality(results, "shared", "stages/reward_model/quality.json", kind, "majority")
        parts.append((kind, at_least(right, 0.90, significant=False)))
        parts.append((f"{kind} above majority", rises(_minus(right, majority))))
    return all_of(parts)


def noise_degrades(results: Results) -> Verdict:
    """T3n: mean accuracy on clean labels falls from 0 to 10 to 30 % noise, each step at most 1 point upwards."""
    accuracy = []
    for arm in ("shared", "noise_10", "noise_30"):
        name = "stages/reward_model/quality.json" if arm == "shared" else "clean_quality.json"
        accuracy.append(
            _mean_of([_quality(results, arm, name, kind, "accuracy", like="noise_30") for kind in TYPES])
        )
    means = [over_seeds(values).value or 0.0 for values in accuracy]
    verdict = rises(_minus(accuracy[0], accuracy[2]))
    smooth = all(after <= before + 0.01 for before, after in itertools.pairwise(means))
    text = f"accuracy {', '.join(shown(mean, '%') for mean in means)} at 0, 10, 30 % noise; {verdict.text}"
    return replace(verdict, verdict=verdict.verdict if smooth else "fails", text=text)


def beats(baseline: str, mode: str) -> Callable[[Results], Verdict]:
    """Fact-F1 of the dense arm sampled at T=1 above a baseline's."""

    def check(results: Results) -> Verdict:
        other = f"scenes-captions@{mode}/{F1}"
        return rises(results.change("dense", baseline, f"{SAMPLED}/{F1}", baseline_metric=other))

    return check


def oracle_above(results: Results) -> Verdict:
    """O1."""
    return all_of(
        [(label, rises(results.change("oracle", "dense", f"{mode}/{F1}"))) for label, mode in MODES]
    )


def _gains_nothing(results: Results, control: str) -> Verdict:
    return all_of([
        (label, no_gain(results.change(control, "sft", f"{mode}/{F1}"),
                        _fall(results, control, mode), _fall(results, "dense", mode)))
        for label, mode in MODES
    ])  # fmt: skip


def _each_type(
    results: Results, family: str, rule: Callable[[Mapping[str, list[float]]], Verdict]
) -> Verdict:
    return all_of(
        [
            (f"{kind} {label}", rule(results.change("dense", "sft", f"{mode}/{family}/{kind}")))
            for label, mode in MODES
            for kind in TYPES
        ]
    )


def _fall(results: Results, arm: str, mode: str) -> dict[str, list[float]]:
    return _map(results.change(arm, "sft", f"{mode}/{ERRORS}", relative=True), lambda x: -x)


def _map(values: Mapping[str, list[float]], change: Callable[[float], float]) -> dict[str, list[float]]:
    return {start: [change(value) for value in column] for start, column in values.items()}


def _minus(a: Mapping[str, list[float]], b: Mapping[str, list[float]]) -> dict[str, list[float]]:
    return {start: [x - y for x, y in zip(a[start], b[start], strict=True)] for start in a}


def _mean_of(many: list[dict[str, list[float]]]) -> dict[str, list[float]]:
    return {
        start: [
            sum(numbers) / len(numbers) for numbers in zip(*(values[start] for values in many), strict=True)
        ]
        for start in many[0]
    }


def _quality(
    results: Results, arm: str, file: str, kind: str, name: str, like: str | None = None
) -> dict[str, list[float]]:
    """A number of the reward models' quality per start and seed, in the cells of ``like``."""
    found: dict[str, list[float]] = {}
    for cell in results.cells(like or arm):
        content: Any = results.document(arm, file, cell)
        value = content[kind]["applicable"][name]
        if value is None:
            raise UserError(f"{results.folder(arm, cell)}: {file} has no {name} of {kind} (no such segment)")
        found.setdefault(cell.start, []).append(float(value))
    return found
