"""Intervals: the card's Wilson table, scipy, coverage by simulation, exact repetition under a seed."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mmalign.stats.intervals import (
    Interval,
    bootstrap_mean,
    cluster_bootstrap,
    paired_bootstrap,
    t_interval,
    wilson,
)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(0, 50, 0.0, 0.071), (1, 50, 0.004, 0.105), (5, 5, 0.566, 1.0), (25, 50, 0.366, 0.634)],
)
def test_wilson_golden(successes: int, n: int, low: float, high: float) -> None:
    interval = wilson(successes, n)
    assert interval.ci_low == pytest.approx(low, abs=5e-4) and interval.ci_high == pytest.approx(
        high, abs=5e-4
    )
    assert interval.value == successes / n and interval.n == n


@settings(max_examples=80, deadline=None)
@given(n=st.integers(1, 400), share=st.floats(0, 1), level=st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_equals_scipy(n: int, share: float, level: float) -> None:
    successes = round(share * n)
    interval = wilson(successes, n, level)
    expected = stats.binomtest(successes, n).proportion_ci(level, method="wilson")
    assert interval.ci_low == pytest.approx(expected.low, abs=1e-12)
    assert interval.ci_high == pytest.approx(expected.high, abs=1e-12)


def test_wilson_edges() -> None:
    assert wilson(0, 0) == Interval(None, None, None, "wilson", 0)
    for bad in ((-1, 5), (6, 5)):
        with pytest.raises(ValueError, match="between 0 and n"):
            wilson(*bad)
    with pytest.raises(ValueError, match="level"):
        wilson(1, 2, 95.0)


def test_t_interval_golden() -> None:
    # 1, 2, 3: mean 2, sd 1, t(.975, 2) = 4.302653: 2 -+ 4.302653 / sqrt 3
    interval = t_interval([1.0, 2.0, 3.0])
    assert interval.value == 2.0 and interval.n == 3
    assert interval.ci_low == pytest.approx(2 - 4.302652729911275 / math.sqrt(3), abs=1e-9)
    assert interval.ci_high == pytest.approx(2 + 4.302652729911275 / math.sqrt(3), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.floats(-100, 100), min_size=2, max_size=12))
def test_t_interval_equals_scipy(values: list[float]) -> None:
    spread = float(np.std(values, ddof=1))
    if spread < 1e-6:
        return
    expected = stats.t.interval(0.95, len(values) - 1, np.mean(values), spread / math.sqrt(len(values)))
    interval = t_interval(values)
    assert (interval.ci_low, interval.ci_high) == pytest.approx(expected, abs=1e-9)


def test_t_interval_of_one_seed_has_no_width_to_show() -> None:
    assert t_interval([0.4]) == Interval(0.4, None, None, "t", 1)
    assert t_interval([]) == Interval(None, None, None, "t", 0)
    with pytest.raises(ValueError, match="row 1 is not"):
        t_interval([1.0, math.nan])


def test_as_dict_is_json() -> None:
    record = json.loads(json.dumps(wilson(1, 4).as_dict()))
    assert set(record) == {"value", "ci_low", "ci_high", "method", "n"}
    assert json.loads(json.dumps(wilson(0, 0).as_dict()))["value"] is None


def test_bootstrap_mean_is_near_the_normal_interval() -> None:
    x = np.random.default_rng(0).normal(3.0, 2.0, 400)
    interval = bootstrap_mean(x, draws=4000)
    half = 1.96 * x.std() / 20
    assert interval.value == pytest.approx(x.mean())
    assert interval.ci_low == pytest.approx(x.mean() - half, abs=0.1 * half + 0.01)
    assert interval.ci_high == pytest.approx(x.mean() + half, abs=0.1 * half + 0.01)


def test_bootstrap_mean_agrees_with_scipy() -> None:
    x = np.random.default_rng(1).exponential(1.0, 60)
    expected = stats.bootstrap(
        (x,), np.mean, method="percentile", n_resamples=8000, rng=0
    ).confidence_interval
    interval = bootstrap_mean(x, draws=8000)
    assert interval.ci_low == pytest.approx(expected.low, abs=0.02)
    assert interval.ci_high == pytest.approx(expected.high, abs=0.02)


def test_the_same_seed_repeats_and_another_does_not() -> None:
    x = np.random.default_rng(2).normal(size=30)
    assert bootstrap_mean(x, seed=4) == bootstrap_mean(x, seed=4)
    assert bootstrap_mean(x, seed=4) != bootstrap_mean(x, seed=5)


def test_clusters_of_copies_are_as_wide_as_the_clusters_alone() -> None:
    # 20 pictures, each with 10 identical answers: the answers carry no more evidence than 20 numbers
    base = np.random.default_rng(3).normal(size=20)
    copies, names = np.repeat(base, 10), np.repeat(np.arange(20), 10).tolist()
    clustered = cluster_bootstrap(copies, names, draws=4000)
    alone, naive = bootstrap_mean(base, draws=4000), bootstrap_mean(copies, draws=4000)
    assert clustered.ci_low == pytest.approx(alone.ci_low) and clustered.ci_high == pytest.approx(
        alone.ci_high
    )
    assert clustered.n == 200 and "20 clusters" in clustered.method
    width = [i.ci_high - i.ci_low for i in (naive, clustered)]  # type: ignore[operator]
    assert width[0] < 0.45 * width[1]


def test_ratio_of_totals() -> None:
    # hallucinated / stated sentences: 3/10 whatever the captions' lengths
    columns = np.array([[1.0, 4.0], [2.0, 5.0], [0.0, 1.0]])
    interval = cluster_bootstrap(columns, statistic=lambda t: t[:, 0] / t[:, 1])
    assert interval.value == pytest.approx(0.3)
    assert 0.0 <= interval.ci_low < 0.3 < interval.ci_high <= 0.4  # type: ignore[operator]


def test_ratio_without_a_denominator_is_none() -> None:
    interval = cluster_bootstrap([[0.0, 0.0], [0.0, 0.0]], statistic=lambda t: t[:, 0] / t[:, 1])
    assert (interval.value, interval.ci_low, interval.ci_high, interval.n) == (None, None, None, 2)
    assert cluster_bootstrap([]).n == 0 and paired_bootstrap([], []).value is None


def test_cluster_coverage_by_simulation() -> None:
    rng = np.random.default_rng(4)
    hits = 0
    for trial in range(200):
        effects = rng.normal(0, 1, 40)
        x = np.repeat(effects, 3) + rng.normal(0, 0.5, 120)
        interval = cluster_bootstrap(x, np.repeat(np.arange(40), 3).tolist(), draws=400, seed=trial)
        hits += interval.ci_low <= 0.0 <= interval.ci_high  # type: ignore[operator]
    assert 0.88 <= hits / 200 <= 0.99


def test_paired_is_narrower_than_unpaired_and_has_the_right_sign() -> None:
    rng = np.random.default_rng(5)
    difficulty = rng.normal(0, 3, 100)
    a, b = difficulty + rng.normal(0, 0.1, 100), difficulty + 0.2 + rng.normal(0, 0.1, 100)
    paired = paired_bootstrap(a, b)
    assert paired.value == pytest.approx(float((b - a).mean()))
    assert 0.1 < paired.ci_low < 0.2 < paired.ci_high < 0.3  # type: ignore[operator]
    assert paired_bootstrap(b, a).value == pytest.approx(-float((b - a).mean()))
    difference = bootstrap_mean(b - a)
    assert (paired.ci_low, paired.ci_high) == pytest.approx((difference.ci_low, difference.ci_high))


def test_paired_refusals() -> None:
    with pytest.raises(ValueError, match="row for row"):
        paired_bootstrap([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="2 values but 1 clusters"):
        cluster_bootstrap([1.0, 2.0], ["a"])
    with pytest.raises(ValueError, match="shape"):
        cluster_bootstrap(np.zeros((2, 2, 2)))


def test_large_samples_are_resampled_in_blocks() -> None:
    x = np.random.default_rng(6).normal(size=9000)
    interval = bootstrap_mean(x, draws=600)
    assert interval.ci_low < x.mean() < interval.ci_high  # type: ignore[operator]


def test_statistics_do_not_import_torch() -> None:
    names = "mmalign.stats.intervals, mmalign.stats.compare, mmalign.stats.agreement"
    code = f"import sys, {names}; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
