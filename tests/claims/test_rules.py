"""Golden verdicts: numbers per start and seed in, holds / fails / inconclusive out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from mmalign.claims.definition import Verdict
from mmalign.claims.rules import all_of, at_least, no_gain, over_seeds, rises, seed_means

FIVE = [0.45, 0.52, 0.47, 0.55, 0.50]


def test_starts_are_averaged_within_a_seed_before_the_interval() -> None:
    values = {"a": [0.1, 0.2, 0.3], "b": [0.3, 0.4, 0.8]}
    assert seed_means(values) == pytest.approx([0.2, 0.3, 0.55])
    found = over_seeds(values)
    low, high = stats.t.interval(0.95, 2, loc=np.mean([0.2, 0.3, 0.55]), scale=stats.sem([0.2, 0.3, 0.55]))
    assert (found.value, found.ci_low, found.ci_high) == pytest.approx((0.35, low, high))


def test_paired_interval_is_that_of_scipys_paired_t_test() -> None:
    rng = np.random.default_rng(3)
    before, after = rng.normal(0.4, 0.1, 7), rng.normal(0.3, 0.1, 7)
    found = over_seeds({"only": list(after - before)})
    expected = stats.ttest_rel(after, before).confidence_interval(0.95)
    assert (found.ci_low, found.ci_high) == pytest.approx((expected.low, expected.high))


def test_unequal_seeds_are_refused() -> None:
    with pytest.raises(ValueError, match="different numbers of seeds"):
        seed_means({"a": [1.0], "b": [1.0, 2.0]})


def test_at_least_holds_when_every_start_reaches_it() -> None:
    found = at_least({"a": FIVE, "b": FIVE}, 0.40)
    assert found.verdict == "holds"
    assert found.value == pytest.approx(0.498)
    assert "a 49.8 %, b 49.8 %" in found.text


def test_a_strong_start_does_not_carry_a_weak_one() -> None:
    assert at_least({"a": [0.9] * 5, "b": [0.39, 0.38, 0.39, 0.4, 0.38]}, 0.40).verdict == "fails"


def test_at_least_is_inconclusive_when_the_interval_includes_zero() -> None:
    noisy = [1.5, -0.4, 0.9, -0.3, 0.8]
    assert np.mean(noisy) >= 0.4
    assert at_least({"a": noisy}, 0.40).verdict == "inconclusive"
    assert at_least({"a": noisy}, 0.40, significant=False).verdict == "holds"


def test_one_seed_is_inconclusive_never_holds() -> None:
    found = at_least({"a": [0.9]}, 0.40)
    assert found.verdict == "inconclusive" and found.ci_low is None
    assert rises({"a": [0.9]}).verdict == "inconclusive"
    assert no_gain({"a": [0.0]}, {"a": [0.0]}, {"a": [0.5]}).verdict == "inconclusive"


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([0.05, 0.06, 0.04, 0.05, 0.07], "holds"),
        ([0.30, -0.10, 0.20, -0.05, 0.1], "inconclusive"),
        ([-0.05, -0.06, 0.0, 0.01, -0.07], "fails"),
        ([0.0, 0.0, 0.0], "fails"),
    ],
)
def test_rises(values: list[float], verdict: str) -> None:
    assert rises({"a": values}).verdict == verdict


NONE, SMALL, DENSE = (
    [0.01, -0.01, 0.0, 0.01, -0.02],
    [0.02, 0.05, -0.01, 0.03, 0.0],
    [0.5, 0.55, 0.45, 0.5, 0.6],
)


@pytest.mark.parametrize(
    ("score", "fall", "treated", "verdict"),
    [
        (NONE, SMALL, DENSE, "holds"),
        ([-0.05, -0.06, -0.04, -0.05, -0.07], SMALL, DENSE, "holds"),
        ([0.05, 0.06, 0.04, 0.05, 0.07], SMALL, DENSE, "fails"),
        (NONE, [0.2, 0.21, 0.19, 0.2, 0.2], DENSE, "fails"),
        (NONE, SMALL, [-0.1, 0.0, 0.05, -0.1, 0.0], "inconclusive"),
    ],
)
def test_no_gain(score: list[float], fall: list[float], treated: list[float], verdict: str) -> None:
    assert no_gain({"a": score}, {"a": fall}, {"a": treated}).verdict == verdict


def test_numbers_that_are_not_finite_decide_nothing() -> None:
    assert at_least({"a": [math.inf, 0.5]}, 0.1).verdict == "inconclusive"
    assert rises({"a": [math.nan, 0.5]}).verdict == "inconclusive"


def test_all_of_takes_the_worst_part() -> None:
    good, bad = Verdict("holds", 0.5, 0.4, 0.6, "fine"), Verdict("fails", -0.1, -0.2, 0.0, "not fine")
    unsure = Verdict("inconclusive", 0.1, -0.1, 0.3, "unsure")
    assert all_of([("x", good), ("y", unsure), ("z", bad)]).verdict == "fails"
    found = all_of([("x", good), ("y", unsure)])
    assert (found.verdict, found.value) == ("inconclusive", 0.1)
    assert "x: holds, fine; y: inconclusive, unsure" in found.text
    assert all_of([("x", good)]).verdict == "holds"
