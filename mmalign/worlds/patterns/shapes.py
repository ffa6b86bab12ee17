"""Flat shapes by their signed distance, one kind per picture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmalign.worlds.patterns.canvas import Floats, turned

__all__ = ["SHAPES", "shape_distance"]

SHAPES = ("disc", "square", "triangle", "cross", "ring", "crescent", "bar", "star")


def shape_distance(kind: NDArray[np.integer], x: Floats, y: Floats, size: Floats, angle: Floats) -> Floats:
    """Signed distance ``[N, S, S]`` to shapes around the origin of ``x, y``; negative within.

    Args:
        kind: places in ``SHAPES``, ``[N]``.
        x: coordinates of pixels less those of the shape's centre, ``[N, S, S]``.
        y: likewise.
        size: half the shape's width, ``[N, 1, 1]``.
        angle: by which it is turned, ``[N, 1, 1]``.
    """
    found = np.zeros(np.broadcast_shapes(x.shape, size.shape, (len(kind), 1, 1)), dtype=np.float32)
    for number, name in enumerate(SHAPES):
        of_kind = np.flatnonzero(kind == number)
        if len(of_kind):
            u, v = turned(x[of_kind], y[of_kind], angle[of_kind])
            found[of_kind] = _DISTANCES[name](u / size[of_kind], v / size[of_kind]) * size[of_kind]
    return found


def _box(u: Floats, v: Floats, half_u: float, half_v: float) -> Floats:
    return np.maximum(np.abs(u) - half_u, np.abs(v) - half_v)


def _star(u: Floats, v: Floats) -> Floats:
    spokes = np.cos(5 * np.arctan2(v, u))
    return np.hypot(u, v) - (0.72 + 0.33 * spokes)


_DISTANCES = {
    "disc": lambda u, v: np.hypot(u, v) - 0.95,
    "square": lambda u, v: _box(u, v, 0.8, 0.8),
    "triangle": lambda u, v: np.maximum(np.abs(u) * 0.87 + v * 0.5, -v) - 0.52,
    "cross": lambda u, v: np.minimum(_box(u, v, 1.0, 0.32), _box(u, v, 0.32, 1.0)),
    "ring": lambda u, v: np.abs(np.hypot(u, v) - 0.72) - 0.26,
    "crescent": lambda u, v: np.maximum(np.hypot(u, v) - 0.98, 0.78 - np.hypot(u - 0.5, v)),
    "bar": lambda u, v: _box(u, v, 1.05, 0.36),
    "star": _star,
}
