"""Comparisons over seeds: golden values, scipy's permutation test, Holm by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mmalign.stats.compare import holm, paired_difference, sign_flip_test


def test_paired_difference_golden() -> None:
    # differences 1, 2, 3: mean 2 -+ 4.302653/sqrt 3 = [-.484, 4.484]
    interval = paired_difference([1.0, 1.0, 1.0], [2.0, 3.0, 4.0])
    assert interval.value == 2.0 and interval.n == 3
    assert (interval.ci_low, interval.ci_high) == pytest.approx((-0.4841377, 4.4841377), abs=1e-6)
    with pytest.raises(ValueError, match="one number per seed"):
        paired_difference([1.0], [1.0, 2.0])


def test_paired_difference_of_one_seed_has_no_interval() -> None:
    assert paired_difference([1.0], [1.5]).ci_low is None


def test_paired_difference_does_not_mix_up_the_pairs() -> None:
    # the same two sets of numbers, paired well or badly: same mean, other width
    good, bad = paired_difference([1, 5, 9], [2, 6, 10]), paired_difference([1, 5, 9], [10, 2, 6])
    assert good.value == bad.value == 1.0
    assert good.ci_low == pytest.approx(1.0) and bad.ci_low < -10  # type: ignore[operator]


def test_sign_flip_golden() -> None:
    # 1, 2, 3: |sum| = 6 is reached by all plus and all minus only: 2/8 two-sided, 1/8 one-sided
    assert sign_flip_test([1.0, 2.0, 3.0]) == 0.25
    assert sign_flip_test([1.0, 2.0, 3.0], "greater") == 0.125
    assert sign_flip_test([1.0, 2.0, 3.0], "less") == 1.0
    assert sign_flip_test([-1.0, -2.0, -3.0], "less") == 0.125
    # five agreeing seeds: 2/32, the smallest two-sided p there is
    assert sign_flip_test([0.1] * 5) == 0.0625
    assert sign_flip_test([0.0, 0.0]) == 1.0


def test_sign_flip_counts_ties_despite_rounding() -> None:
    # 0.1 + 0.2 against 0.3: without a tolerance the mirrored sign vectors would be missed
    assert sign_flip_test([0.1, 0.2, -0.3]) == 1.0


@settings(max_examples=25, deadline=None)
@given(
    values=st.lists(st.floats(-3, 3), min_size=2, max_size=8),
    side=st.sampled_from(["two-sided", "greater", "less"]),
)
def test_sign_flip_equals_scipy(values: list[float], side: str) -> None:
    # scipy tests the mean of one sample against sign flips with permutation_type="samples"
    x = np.round(np.asarray(values), 3) + np.array([0.0137 * (i + 1) for i in range(len(values))])
    expected = stats.permutation_test(
        (x,), lambda s, axis: np.mean(s, axis=axis), permutation_type="samples", alternative=side,
        n_resamples=np.inf, vectorized=True,
    ).pvalue  # fmt: skip
    assert sign_flip_test(x, side) == pytest.approx(expected, abs=1e-12)  # type: ignore[arg-type]


def test_sign_flip_beyond_the_exact_limit() -> None:
    x = np.random.default_rng(0).normal(0.0, 1.0, 25)
    approximate = sign_flip_test(x, draws=20_000)
    assert approximate == sign_flip_test(x, draws=20_000)
    normal = 2 * stats.norm.sf(abs(x.sum()) / np.sqrt((x**2).sum()))
    assert approximate == pytest.approx(normal, abs=0.03)
    assert sign_flip_test(np.full(25, 1.0), draws=1000) == pytest.approx(1 / 1001)


def test_sign_flip_is_calibrated_under_the_null() -> None:
    rng = np.random.default_rng(1)
    p = np.array([sign_flip_test(rng.normal(size=7)) for _ in range(400)])
    assert (p <= 0.05).mean() <= 0.09 and 0.4 < (p <= 0.5).mean() < 0.6


def test_sign_flip_refusals() -> None:
    with pytest.raises(ValueError, match="non-empty"):
        sign_flip_test([])
    with pytest.raises(ValueError, match="finite"):
        sign_flip_test([1.0, float("nan")])
    with pytest.raises(ValueError, match="unknown alternative"):
        sign_flip_test([1.0], "both")  # type: ignore[arg-type]


def test_holm_golden() -> None:
    # sorted .01, .02, .03, .04 times 4, 3, 2, 1: .04, .06, .06, .04 -> running maximum .04, .06, .06, .06
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([]) == [] and holm([0.2]) == [0.2]
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        holm([1.2])


@settings(max_examples=50, deadline=None)
@given(p=st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_order_and_lies_between_raw_and_bonferroni(p: list[float]) -> None:
    adjusted = holm(p)
    for raw, value in zip(p, adjusted, strict=True):
        assert raw - 1e-12 <= value <= min(1.0, len(p) * raw) + 1e-12
    order = np.argsort(p, kind="stable")
    assert (np.diff(np.asarray(adjusted)[order]) >= -1e-12).all()
