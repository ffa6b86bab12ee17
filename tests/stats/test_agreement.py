"""Agreement: hand-made tables and parity with scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, cohen_kappa_score, roc_auc_score

from mmalign.stats.agreement import (
    accuracy_report,
    auc,
    brier,
    calibration_table,
    expected_calibration_error,
    kappa,
)


def test_auc_golden() -> None:
    # positives .8, .4; negatives .4, .1: pairs won 1, 1, tie 1/2, 1 -> 3.5 of 4
    assert auc([0.8, 0.4, 0.4, 0.1], [1, 1, 0, 0]) == 0.875
    assert auc([1, 2, 3, 4], [0, 0, 1, 1]) == 1.0 and auc([4, 3, 2, 1], [0, 0, 1, 1]) == 0.0
    assert auc([5, 5, 5, 5], [0, 1, 0, 1]) == 0.5


def test_auc_without_one_class_is_none() -> None:
    assert auc([0.2, 0.3], [1, 1]) is None and auc([], []) is None


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), decimals=st.integers(0, 3))
def test_parity_with_sklearn(seed: int, decimals: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 40)
    labels[:2] = 0, 1
    scores = np.round(rng.random(40), decimals)  # few decimals: many ties
    assert auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert brier(scores, labels) == pytest.approx(brier_score_loss(labels, scores), abs=1e-12)
    first, second = rng.integers(-1, 2, 40).tolist(), rng.integers(-1, 2, 40).tolist()
    assert kappa(first, second) == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_auc_symmetries(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, labels = np.round(rng.normal(size=30), 1), rng.integers(0, 2, 30)
    labels[:2] = 0, 1
    area = auc(scores, labels)
    assert auc(-scores, labels) == pytest.approx(1 - area)  # type: ignore[operator]
    assert auc(scores, 1 - labels) == pytest.approx(1 - area)  # type: ignore[operator]
    assert auc(np.exp(scores), labels) == pytest.approx(area)


def test_accuracy_against_the_majority() -> None:
    # three of four right; always answering +1 would be right twice
    report = accuracy_report([1, 1, -1, 0], [1, 1, -1, -1])
    assert report.accuracy.value == 0.75 and report.accuracy.n == 4 and report.accuracy.method == "wilson"
    assert report.majority == 0.5 and report.majority_class == 1 and report.n == 4
    empty = accuracy_report([], [])
    assert empty.accuracy.value is None and empty.majority is None
    with pytest.raises(ValueError, match="2 predictions but 1 labels"):
        accuracy_report([1, 1], [1])


def test_calibration_golden() -> None:
    # bin (0, .5]: p .2 and .4, one true: confidence .3, frequency .5; bin (.5, 1]: p .9, true: .9 and 1
    table = calibration_table([0.2, 0.4, 0.9], [0, 1, 1], bins=2)
    assert [(row.low, row.high, row.n) for row in table] == [(0.0, 0.5, 2), (0.5, 1.0, 1)]
    assert [row.confidence for row in table] == pytest.approx([0.3, 0.9])
    assert [row.frequency for row in table] == pytest.approx([0.5, 1.0])
    # ECE = 2/3 * .2 + 1/3 * .1
    assert expected_calibration_error([0.2, 0.4, 0.9], [0, 1, 1], bins=2) == pytest.approx(0.5 / 3)


def test_calibration_edges() -> None:
    # 0 belongs to the first bin, an edge to the bin below it, 1 to the last
    table = calibration_table([0.0, 0.5, 1.0], [0, 0, 1], bins=2)
    assert [(row.low, row.n) for row in table] == [(0.0, 2), (0.5, 1)]
    assert calibration_table([], []) == [] and expected_calibration_error([], []) is None
    with pytest.raises(ValueError, match="bins"):
        calibration_table([0.1], [0], bins=0)


def test_a_calibrated_judge_has_a_small_error_and_an_overconfident_one_not() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(20_000)
    y = (rng.random(20_000) < p).astype(int)
    assert expected_calibration_error(p, y) < 0.015  # type: ignore[operator]
    assert expected_calibration_error(np.where(p > 0.5, 1.0, 0.0), y) > 0.2  # type: ignore[operator]


def test_brier_golden() -> None:
    # (.3^2 + .2^2) / 2 = .065
    assert brier([0.7, 0.2], [1, 0]) == pytest.approx(0.065)
    assert brier([0.5, 0.5], [1, 0]) == 0.25 and brier([], []) is None


def test_kappa_golden() -> None:
    # 20 of both yes, 5 first only, 10 second only, 15 of both no: agreement .7,
    # chance .5 * .6 + .5 * .4 = .5: kappa .4
    first = [1] * 25 + [0] * 25
    second = [1] * 20 + [0] * 5 + [1] * 10 + [0] * 15
    assert kappa(first, second) == pytest.approx(0.4)
    assert kappa(["a", "b"], ["a", "b"]) == 1.0
    assert kappa([1, 1], [1, 1]) is None and kappa([], []) is None
    with pytest.raises(ValueError, match="1 labels of one judge"):
        kappa([1], [1, 0])


def test_refusals() -> None:
    with pytest.raises(ValueError, match="0 or 1"):
        auc([0.1], [2])
    with pytest.raises(ValueError, match="finite"):
        auc([float("nan")], [1])
    with pytest.raises(ValueError, match="one length"):
        auc([0.1, 0.2], [1])
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        brier([1.2], [1])
