"""The four specialised tasks of ``mini-vtab``: cells, land cover, roads from above, lesions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from mmalign.benchmarks.transfer.arrays import Made
from mmalign.worlds.patterns.canvas import SIDE, Floats, cover, finish, grid, hsv, paint, turned, uniform
from mmalign.worlds.patterns.textures import band_noise, ground

__all__ = ["SPECIALISED", "cells", "land_cover", "lesions", "roads"]


def _tone(
    rng: np.random.Generator, n: int, hue: float, saturation: float, value: float, jitter: float
) -> Floats:
    exact = (hue + uniform(rng, -jitter, jitter, n, ())) % 1.0
    bounds = ((saturation - 0.15, saturation + 0.15), (value - 0.15, value + 0.15))
    s, v = (np.clip(uniform(rng, low, high, n, ()), 0.0, 1.0) for low, high in bounds)
    return hsv(exact.astype(np.float32), s.astype(np.float32), v.astype(np.float32))


def _disc(x0: Floats | float, y0: Floats | float, radius: Floats | float) -> Floats:
    x, y = grid()
    return cover(np.hypot(x - x0, y - y0) - radius)


def cells(n: int, rng: np.random.Generator) -> Made:
    """Whether a swollen, ragged nucleus lies in the middle of a stained section; at the margin it does not count."""
    label = rng.integers(0, 2, n)
    tissue = _tone(rng, n, 0.9, 0.3, 0.85, 0.04)[:, None, None] * np.ones((1, SIDE, SIDE, 1), np.float32)
    canvas = tissue * (0.85 + 0.3 * band_noise(n, 3.0, 0.6, rng))[..., None]
    nuclei = _tone(rng, n, 0.75, 0.5, 0.5, 0.05)
    for _ in range(16):
        seen = (rng.random((n, 1, 1)) < 0.8).astype(np.float32)
        x0, y0 = uniform(rng, -1, 1, n), uniform(rng, -1, 1, n)
        canvas = paint(canvas, seen * _disc(x0, y0, uniform(rng, 0.08, 0.14, n)), nuclei)
    x, y = grid()
    way = uniform(rng, 0, 2 * np.pi, n)
    far = np.where(label[:, None, None] == 1, uniform(rng, 0.0, 0.3, n), uniform(rng, 0.75, 0.95, n))
    u, v = x - far * np.cos(way), y - far * np.sin(way)
    lobes = 0.04 * np.sin(rng.integers(3, 6, (n, 1, 1)) * np.arctan2(v, u) + way)
    mask = cover(np.hypot(u, v) - uniform(rng, 0.16, 0.22, n) - lobes)
    present = ((label == 1) | (rng.random(n) < 0.5)).astype(np.float32)[:, None, None]
    return finish(paint(canvas, present * mask, nuclei * 0.9), rng, 0.07), label


_COVERS = ((0.30, 0.55, 0.35), (0.22, 0.5, 0.6), (0.12, 0.5, 0.55), (0.58, 0.5, 0.5), (0.08, 0.15, 0.6))
"""Hue, saturation and value of forest, meadow, soil, water and stone."""
_MIXES = ((0, 1, 2), (0, 1, 3), (1, 2, 4), (0, 3, 4))


def land_cover(n: int, rng: np.random.Generator) -> Made:
    """Which of eight landscapes: four mixtures of covers, each in ragged patches or in fields side by side."""
    label = rng.integers(0, 8, n)
    x, y = grid()
    seeds = [uniform(rng, -1.1, 1.1, n, (12,)) for _ in range(2)]
    u, v = turned(x, y, uniform(rng, 0, 2 * np.pi, n))
    striped = (label % 2 == 1)[:, None, None, None]
    su, sv = turned(seeds[0], seeds[1], uniform(rng, 0, 2 * np.pi, n, (1,)))
    near_patch = np.hypot(x[..., None] - seeds[0][:, None, None], y[..., None] - seeds[1][:, None, None])
    near_field = np.abs(u[..., None] - su[:, None, None]) + 0.25 * np.abs(v[..., None] - sv[:, None, None])
    owner = np.where(striped, near_field, near_patch).argmin(-1)
    member = rng.integers(0, 3, (n, 12))
    canvas = np.zeros((n, SIDE, SIDE, 3), np.float32)
    kind = np.array(_MIXES)[label // 2][np.arange(n)[:, None], member]
    for cover_kind, (hue, saturation, value) in enumerate(_COVERS):
        tone = _tone(rng, n, hue, saturation, value, 0.07)
        mask = np.take_along_axis(kind, owner.reshape(n, -1), 1).reshape(owner.shape) == cover_kind
        canvas = paint(canvas, mask.astype(np.float32), tone)
    return finish(canvas * (0.75 + 0.5 * band_noise(n, 6.0, 0.6, rng))[..., None], rng, 0.1), label


def _road(u: Floats, wide: Floats) -> Floats:
    return np.abs(u) - wide


_ROADS: tuple[Callable[[Floats, Floats, Floats], Floats], ...] = (
    lambda u, v, w: _road(u, w),
    lambda u, v, w: np.minimum(_road(u - 0.4, w), _road(u + 0.4, w)),
    lambda u, v, w: np.minimum(_road(u, w), _road(v, w)),
    lambda u, v, w: np.minimum(_road(u, w), np.maximum(_road(v, w), -u)),
    lambda u, v, w: np.minimum(_road(np.hypot(u, v) - 0.5, w), np.maximum(_road(v, w), 0.5 - np.hypot(u, v))),
    lambda u, v, w: _road(np.hypot(u + 0.9, v) - 0.9, w),
    lambda u, v, w: np.minimum(_road((u + 0.35) % 0.7 - 0.35, w), _road((v + 0.35) % 0.7 - 0.35, w)),
    lambda u, v, w: np.minimum(_road(u - 0.5 * np.abs(v), w), np.maximum(_road(v, w), u)),
)
"""One road, two, crossing, junction, roundabout, bend, blocks, fork."""


def roads(n: int, rng: np.random.Generator) -> Made:
    """Which of eight layouts of roads, from above, at any turn and place, with houses beside."""
    label = rng.integers(0, len(_ROADS), n)
    x, y = grid()
    x, y = x + uniform(rng, -0.25, 0.25, n), y + uniform(rng, -0.25, 0.25, n)
    u, v = turned(x, y, uniform(rng, 0, 2 * np.pi, n))
    wide, distance = uniform(rng, 0.06, 0.1, n), np.empty((n, SIDE, SIDE), np.float32)
    for kind, function in enumerate(_ROADS):
        of_kind = np.flatnonzero(label == kind)
        distance[of_kind] = function(u[of_kind], v[of_kind], wide[of_kind])
    canvas = ground(n, rng, (0.15, 0.5), 0.2)
    for _ in range(6):
        places = [uniform(rng, -1, 1, n) for _ in range(2)]
        box = np.maximum(np.abs(grid()[0] - places[0]), np.abs(grid()[1] - places[1])) - uniform(
            rng, 0.06, 0.12, n
        )
        canvas = paint(canvas, cover(box), _tone(rng, n, 0.05, 0.4, 0.7, 0.1))
    return finish(paint(canvas, cover(distance), _tone(rng, n, 0.0, 0.1, 0.7, 0.5)), rng, 0.08), label


_GRADES = np.array([0, 1, 3, 6, 10, 15])


def lesions(n: int, rng: np.random.Generator) -> Made:
    """The grade of a retina: no lesion, 1 to 2, 3 to 5, 6 to 9, 10 to 14; vessels and the disc do not count."""
    label = rng.integers(0, 5, n)
    number = rng.integers(_GRADES[label], _GRADES[label + 1])
    canvas = np.full((n, SIDE, SIDE, 3), 0.04, np.float32)
    eye = _tone(rng, n, 0.06, 0.6, 0.6, 0.04)
    shaded = eye[:, None, None] * (0.75 + 0.5 * band_noise(n, 2.0, 0.5, rng))[..., None]
    canvas = paint(canvas, np.broadcast_to(_disc(0.0, 0.0, 0.98), (n, SIDE, SIDE)), shaded)
    x, y = grid()
    for _ in range(3):
        u, v = turned(x, y, uniform(rng, 0, 2 * np.pi, n))
        vessel = cover(np.abs(v - uniform(rng, -0.5, 0.5, n) * (u + 0.5) ** 2) - 0.04) * (
            np.hypot(x, y) < 0.9
        )
        canvas = paint(canvas, 0.7 * vessel, eye * 0.5)
    canvas = paint(
        canvas,
        _disc(uniform(rng, 0.4, 0.6, n), uniform(rng, -0.2, 0.2, n), uniform(rng, 0.14, 0.2, n)),
        eye * 1.5,
    )
    spot = _tone(rng, n, 0.14, 0.4, 0.9, 0.03)
    for k in range(int(_GRADES[-1]) - 1):
        seen = (number > k).astype(np.float32)[:, None, None]
        canvas = paint(canvas, seen * _spot(n, rng), spot)
    return finish(canvas, rng, 0.06), label


def _spot(n: int, rng: np.random.Generator) -> Floats:
    way, far = uniform(rng, 0, 2 * np.pi, n), 0.8 * np.sqrt(uniform(rng, 0, 1, n))
    return _disc(far * np.cos(way), far * np.sin(way), uniform(rng, 0.05, 0.1, n))


SPECIALISED: Mapping[str, tuple[int, Callable[[int, np.random.Generator], Made]]] = {
    "cells": (2, cells),
    "land-cover": (8, land_cover),
    "roads": (len(_ROADS), roads),
    "lesions": (5, lesions),
}
"""Name -> number of classes and what draws ``n`` pictures."""
