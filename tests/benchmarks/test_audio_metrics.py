"""Laws of the Frechet distance, and the other numbers for sets of sounds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm

from mmalign.benchmarks.metrics.audio import (
    clap_score,
    class_divergence,
    diversity,
    frechet_audio_distance,
    frechet_audio_distance_inf,
    frechet_distance,
)


def covariance(rng: np.random.Generator, d: int) -> np.ndarray:
    root = rng.normal(size=(d, d))
    return root @ root.T + 0.1 * np.eye(d)


def test_a_set_is_at_no_distance_from_itself() -> None:
    x = np.random.default_rng(0).normal(size=(200, 8)) @ np.diag(np.arange(1, 9))
    assert frechet_audio_distance(x, x) < 1e-6
    assert frechet_audio_distance(x[:5], x[:5]) < 1e-6  # fewer samples than dimensions: singular covariance


def test_shared_covariance_leaves_the_means() -> None:
    rng = np.random.default_rng(1)
    cov, a, b = covariance(rng, 6), rng.normal(size=6), rng.normal(size=6)
    assert frechet_distance(a, cov, b, cov) == pytest.approx(((a - b) ** 2).sum(), rel=1e-9)


def test_diagonal_gaussians_have_a_closed_form() -> None:
    rng = np.random.default_rng(2)
    a, b, s, t = rng.normal(size=5), rng.normal(size=5), rng.uniform(0.1, 3, 5), rng.uniform(0.1, 3, 5)
    closed = ((a - b) ** 2).sum() + ((s - t) ** 2).sum()
    assert frechet_distance(a, np.diag(s**2), b, np.diag(t**2)) == pytest.approx(closed, rel=1e-9)


def test_it_equals_the_matrix_square_root_and_is_symmetric() -> None:
    rng = np.random.default_rng(3)
    a, b, s, t = rng.normal(size=7), rng.normal(size=7), covariance(rng, 7), covariance(rng, 7)
    root = sqrtm(s @ t)
    expected = ((a - b) ** 2).sum() + np.trace(s + t - 2 * root.real)
    assert frechet_distance(a, s, b, t) == pytest.approx(expected, rel=1e-7)
    assert frechet_distance(a, s, b, t) == pytest.approx(frechet_distance(b, t, a, s), rel=1e-9)


def test_it_grows_with_noise() -> None:
    rng = np.random.default_rng(4)
    x, y, noise = rng.normal(size=(3, 2000, 4))
    found = [frechet_audio_distance(x, y + scale * noise) for scale in (0, 0.5, 1, 2)]
    assert found == sorted(found) and found[3] > 10 * found[0]


def test_it_is_biased_upwards_by_few_samples_and_the_extrapolation_is_not() -> None:
    rng = np.random.default_rng(5)
    reference = rng.normal(size=(20_000, 8))
    few = np.mean([frechet_audio_distance(reference, rng.normal(size=(50, 8))) for _ in range(20)])
    many = np.mean([frechet_audio_distance(reference, rng.normal(size=(800, 8))) for _ in range(5)])
    assert few > 5 * many > 0
    found = frechet_audio_distance_inf(reference, rng.normal(size=(5000, 8)), smallest=100)
    assert abs(found.value) < 0.02 < few
    assert 0.5 < found.r2 <= 1


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="belong together"):
        frechet_distance(np.zeros(2), np.eye(2), np.zeros(3), np.eye(3))
    with pytest.raises(ValueError, match="at least 2 rows"):
        frechet_audio_distance(np.zeros((1, 2)), np.zeros((4, 2)))
    with pytest.raises(ValueError, match="generated embeddings"):
        frechet_audio_distance_inf(np.zeros((9, 2)), np.zeros((9, 2)), smallest=9)


def test_diversity_is_the_mean_distance_within_groups() -> None:
    x = np.array([[0.0], [2.0], [10.0], [10.0], [99.0]])
    assert diversity(x, ["a", "a", "b", "b", "c"]) == pytest.approx(1.0)
    assert diversity(x, list("abcde")) is None
    three = np.array([[0.0], [1.0], [3.0]])
    assert diversity(three, "aaa") == pytest.approx((1 + 3 + 2) / 3)


def test_the_clap_score_is_a_plain_cosine_with_its_sign() -> None:
    vectors = {"up": [0.0, 2.0], "right": [1.0, 0.0]}
    found = clap_score(
        lambda texts: np.array([vectors[t] for t in texts]),
        lambda sounds: np.array(sounds),
        ["up", "up", "right"],
        [[0.0, 5.0], [0.0, -1.0], [1.0, 1.0]],
    )
    assert found == pytest.approx([1.0, -1.0, 2**-0.5])
    with pytest.raises(ValueError, match="captions"):
        clap_score(lambda _: [[1.0]], lambda _: [[1.0]], ["a"], [])


def test_class_divergence_has_two_directions() -> None:
    p, q = np.array([[0.5, 0.5]]), np.array([[0.9, 0.1]])
    there, back = class_divergence(p, q)
    assert there == pytest.approx(0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1))
    assert back == pytest.approx(0.9 * np.log(0.9 / 0.5) + 0.1 * np.log(0.1 / 0.5))
    assert class_divergence(p, p) == (0.0, 0.0)
    with pytest.raises(ValueError, match="distribution"):
        class_divergence(p, np.array([[0.5, 0.6]]))
