"""The seven natural tasks of ``mini-vtab``: digits, textures, gratings, shapes and colours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmalign.benchmarks.transfer.arrays import Made
from mmalign.errors import UserError
from mmalign.rng import numpy_generator
from mmalign.worlds.patterns.canvas import (
    Floats,
    cover,
    finish,
    grid,
    hsv,
    paint,
    random_colours,
    stamped,
    turned,
    uniform,
)
from mmalign.worlds.patterns.shapes import SHAPES, shape_distance
from mmalign.worlds.patterns.textures import band_noise, ground, mixed, waves

__all__ = [
    "DIGITS",
    "NATURAL",
    "digit_order",
    "digits",
    "grating_orientation",
    "parity",
    "shape",
    "shape_hue",
]
__all__ += ["texture_frequency", "weave"]

DIGITS = 1797
"""Pictures of scikit-learn's ``load_digits`` (test part of UCI's optical recognition of handwritten digits)."""


@cache
def _digits() -> tuple[Floats, NDArray[np.int64]]:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError(
            "mini-vtab: its digits come with scikit-learn: pip install 'mmalign[tuners]'"
        ) from None
    found: Any = load_digits()
    return (found.images / 16.0).astype(np.float32), found.target.astype(np.int64)


def digit_order(seed: int, name: str) -> NDArray[np.int64]:
    """The order in which a task takes the digits: no picture is in two splits."""
    return numpy_generator(seed, "mini-vtab", name, "order").permutation(DIGITS).astype(np.int64)


def digits(chosen: NDArray[np.int64], rng: np.random.Generator) -> Made:
    """Ten handwritten digits in any colours, shifted, sized and turned a little."""
    n, (book, target) = len(chosen), _digits()
    canvas = ground(n, rng, (0.1, 0.5), 0.2)
    padded = np.pad(book, ((0, 0), (1, 1), (1, 1)))
    x0, y0 = uniform(rng, -0.25, 0.25, n), uniform(rng, -0.25, 0.25, n)
    mask = stamped(padded, chosen, x0, y0, uniform(rng, 0.6, 0.95, n), uniform(rng, -0.3, 0.3, n))
    canvas = paint(canvas, mask, random_colours(rng, n, (0.1, 0.9), (0.65, 1.0)))
    return finish(canvas, rng, 0.08), target[chosen]


def parity(chosen: NDArray[np.int64], rng: np.random.Generator) -> Made:
    """Whether a digit is odd."""
    images, target = digits(chosen, rng)
    return images, target % 2


def texture_frequency(n: int, rng: np.random.Generator) -> Made:
    """Which of six bands of spatial frequency, 0.4 octaves apart, in any two colours."""
    label = rng.integers(0, 6, n)
    frequency = 1.5 * 2.0 ** (0.4 * (label[:, None, None] + uniform(rng, -0.3, 0.3, n)))
    field = band_noise(n, frequency.astype(np.float32), 0.4, rng)
    tones = [random_colours(rng, n, (0.1, 0.9), bounds) for bounds in ((0.1, 0.5), (0.5, 1.0))]
    return finish(mixed(field, *tones), rng, 0.12), label


def grating_orientation(n: int, rng: np.random.Generator) -> Made:
    """Which of eight directions a noisy grating has, at any frequency, phase and colours."""
    label = rng.integers(0, 8, n)
    angle = (np.pi / 8 * (label[:, None, None] + uniform(rng, -0.35, 0.35, n))).astype(np.float32)
    field = waves(uniform(rng, 1.5, 6.0, n), angle, uniform(rng, 0.0, 2 * np.pi, n))
    field = 0.45 * field + 0.55 * band_noise(n, uniform(rng, 2.0, 6.0, n), 0.5, rng)
    tones = [random_colours(rng, n, (0.1, 0.9), bounds) for bounds in ((0.1, 0.5), (0.5, 1.0))]
    return finish(mixed(field, *tones), rng, 0.08), label


def _one_shape(
    n: int, rng: np.random.Generator, kind: NDArray[np.integer], size: tuple[float, float], reach: float
) -> Floats:
    x, y = grid()
    x, y = x - uniform(rng, -reach, reach, n), y - uniform(rng, -reach, reach, n)
    turn = uniform(rng, 0.0, 2 * np.pi, n)
    return cover(shape_distance(kind, x, y, uniform(rng, *size, n), turn))


def shape(n: int, rng: np.random.Generator) -> Made:
    """Which of eight shapes, at any place, size, turn and colour."""
    label = rng.integers(0, len(SHAPES), n)
    mask = _one_shape(n, rng, label, (0.35, 0.6), 0.35)
    tone = random_colours(rng, n, (0.2, 1.0), (0.6, 1.0))
    return finish(paint(ground(n, rng), mask, tone), rng, 0.08), label


def shape_hue(n: int, rng: np.random.Generator) -> Made:
    """Which of eight hues the larger of two shapes has."""
    label = rng.integers(0, 8, n)
    canvas = ground(n, rng, (0.2, 0.7), 0.3)
    for hues, size in ((label, (0.38, 0.5)), (rng.integers(0, 8, n), (0.2, 0.28))):
        exact = ((hues + uniform(rng, -0.4, 0.4, n, ())) / 8 % 1.0).astype(np.float32)
        tone = hsv(exact, uniform(rng, 0.35, 0.9, n, ()), uniform(rng, 0.5, 1.0, n, ()))
        canvas = paint(canvas, _one_shape(n, rng, rng.integers(0, len(SHAPES), n), size, 0.55), tone)
    return finish(canvas, rng, 0.06), label


_WEAVES: tuple[Callable[[Floats, Floats], Floats], ...] = (
    lambda u, v: np.sin(np.pi * u) + np.sin(np.pi * v),
    lambda u, v: np.sin(np.pi * (u + np.abs((v % 2) - 1))),
    lambda u, v: np.sin(np.pi * (u + 0.5 * np.sin(np.pi * v / 1.5))),
    lambda u, v: (
        np.cos(np.pi * u) + np.cos(np.pi * (0.5 * u + 0.87 * v)) + np.cos(np.pi * (0.5 * u - 0.87 * v))
    ),
    lambda u, v: np.sin(6 * np.arctan2(v, u)),
    lambda u, v: np.sin(np.pi * np.maximum(np.abs(u), np.abs(v))),
    lambda u, v: np.sin(np.pi * u) * np.where(v % 2 < 1, 1.0, -1.0),
    lambda u, v: np.sin(np.pi * np.hypot(u, v) + np.arctan2(v, u)),
)
"""Plaid, zigzag, bent stripes, honeycomb, spokes, nested squares, shifted stripes, spiral."""


def weave(n: int, rng: np.random.Generator) -> Made:
    """Which of eight regular patterns, at any scale, turn and colours."""
    label = rng.integers(0, len(_WEAVES), n)
    x, y = grid()
    u, v = turned(
        x + uniform(rng, -0.4, 0.4, n), y + uniform(rng, -0.4, 0.4, n), uniform(rng, 0, 2 * np.pi, n)
    )
    scale, field = uniform(rng, 2.2, 4.2, n), np.empty((n, *x.shape[1:]), dtype=np.float32)
    for kind, function in enumerate(_WEAVES):
        of_kind = np.flatnonzero(label == kind)
        field[of_kind] = function(u[of_kind] * scale[of_kind], v[of_kind] * scale[of_kind])
    field = np.clip(0.5 + 0.35 * field + 0.6 * (band_noise(n, 4.0, 1.0, rng) - 0.5), 0.0, 1.0)
    tones = [random_colours(rng, n, (0.1, 0.9), bounds) for bounds in ((0.1, 0.5), (0.5, 1.0))]
    return finish(mixed(field, *tones), rng, 0.12), label


NATURAL: Mapping[str, tuple[int, Callable[..., Made]]] = {
    "digits": (10, digits),
    "digit-parity": (2, parity),
    "texture-frequency": (6, texture_frequency),
    "grating-orientation": (8, grating_orientation),
    "shape": (len(SHAPES), shape),
    "shape-hue": (8, shape_hue),
    "weave": (len(_WEAVES), weave),
}
"""Name -> number of classes and what draws ``n`` pictures; the digits are given which ones instead of ``n``."""
