"""The eight structured tasks of ``mini-vtab``: counting, distance, place and pose."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from mmalign.benchmarks.transfer.arrays import Made
from mmalign.worlds.patterns.canvas import SIDE, Floats, cover, finish, grid, paint, random_colours, uniform
from mmalign.worlds.patterns.shapes import SHAPES, shape_distance
from mmalign.worlds.patterns.solids import solid
from mmalign.worlds.patterns.textures import ground

__all__ = [
    "STRUCTURED",
    "arena",
    "azimuth",
    "count",
    "distance",
    "elevation",
    "orientation",
    "vehicle",
    "x_location",
]


def count(n: int, rng: np.random.Generator) -> Made:
    """How many shapes there are, 1 to 8, of any kind and colour."""
    label = rng.integers(0, 8, n)
    canvas, (x, y) = ground(n, rng, (0.15, 0.4), 0.1), grid()
    cells = rng.permuted(np.tile(np.arange(16), (n, 1)), axis=1)
    for k in range(8):
        seen = (label >= k).astype(np.float32)[:, None, None]
        x0, y0 = (
            (part[:, None, None] - 1.5) * 0.5 + uniform(rng, -0.08, 0.08, n)
            for part in (cells[:, k] % 4, cells[:, k] // 4)
        )
        kind, turn = rng.integers(0, len(SHAPES), n), uniform(rng, 0, 2 * np.pi, n)
        mask = cover(shape_distance(kind, x - x0, y - y0, uniform(rng, 0.15, 0.25, n), turn))
        canvas = paint(canvas, seen * mask, random_colours(rng, n, (0.2, 1.0), (0.6, 1.0)))
    return finish(canvas, rng, 0.06), label


_HORIZON = -0.35


def _landscape(n: int, rng: np.random.Generator) -> Floats:
    """Sky above the horizon, ground below."""
    sky = (
        np.ones((1, SIDE, SIDE, 1), np.float32)
        * random_colours(rng, n, (0.1, 0.4), (0.6, 0.9))[:, None, None]
    )
    below = np.broadcast_to(cover(_HORIZON - grid()[1]), (n, SIDE, SIDE))
    return paint(sky, below, ground(n, rng, (0.25, 0.55), 0.12))


def _standing(
    n: int, rng: np.random.Generator, depth: Floats, kind: NDArray[np.integer], x0: Floats | None = None
) -> Floats:
    """Mask of an object that stands on the ground at ``depth`` (1 is near, 4 is far), seen in perspective."""
    x, y = grid()
    size = uniform(rng, 0.32, 0.42, n) / depth
    foot = _HORIZON + 1.15 / depth
    place = uniform(rng, -0.75, 0.75, n) if x0 is None else x0
    turn = np.zeros_like(size)
    return cover(shape_distance(kind, x - place, y - (foot - size), size, turn))


def distance(n: int, rng: np.random.Generator) -> Made:
    """Which of six ranges the nearest of one to three objects on the ground is in."""
    label = rng.integers(0, 6, n)
    depth = 1.0 + 0.5 * (label[:, None, None] + uniform(rng, 0.1, 0.9, n))
    canvas = _landscape(n, rng)
    for present in (0.5, 0.5, 1.0):
        seen = (rng.random((n, 1, 1)) < present).astype(np.float32)
        here = depth + (0.0 if present == 1.0 else uniform(rng, 0.1, 1.5, n))
        mask = _standing(n, rng, here, rng.integers(0, 2, n))
        canvas = paint(canvas, seen * mask, random_colours(rng, n, (0.3, 1.0), (0.5, 1.0)))
    return finish(canvas, rng, 0.05), label


def arena(n: int, rng: np.random.Generator) -> Made:
    """Whether the nearer of two objects is a ball or a box, and in which of three ranges it is."""
    label = rng.integers(0, 6, n)
    depth = 1.0 + 0.8 * (label[:, None, None] % 3 + uniform(rng, 0.1, 0.9, n))
    canvas = _landscape(n, rng)
    left = uniform(rng, 0.25, 0.75, n) * rng.choice([-1.0, 1.0], (n, 1, 1)).astype(np.float32)
    farther = _standing(n, rng, depth + uniform(rng, 0.5, 1.2, n), rng.integers(0, 2, n), -left)
    canvas = paint(canvas, farther, random_colours(rng, n, (0.3, 1.0), (0.5, 1.0)))
    nearer = _standing(n, rng, depth, label // 3, left)
    return finish(paint(canvas, nearer, random_colours(rng, n, (0.3, 1.0), (0.5, 1.0))), rng, 0.05), label


def vehicle(n: int, rng: np.random.Generator) -> Made:
    """Whether a car stands on the road, and in which of three ranges; trees at the side do not count."""
    label = rng.integers(0, 4, n)
    canvas, (x, y) = _landscape(n, rng), grid()
    bend = uniform(rng, -0.3, 0.3, n)
    deep = np.clip(y - _HORIZON, 0.0, None)
    road = (np.abs(x - bend * (1.2 - deep)) < 0.62 * deep + 0.02) & (y > _HORIZON)
    canvas = paint(canvas, road.astype(np.float32), random_colours(rng, n, (0.0, 0.1), (0.3, 0.6)))
    for _ in range(3):
        side = rng.choice([-1.0, 1.0], (n, 1, 1)).astype(np.float32) * uniform(rng, 0.6, 0.95, n)
        mask = _standing(n, rng, uniform(rng, 1.2, 3.5, n), rng.integers(0, len(SHAPES), n), side)
        canvas = paint(canvas, mask, random_colours(rng, n, (0.3, 0.9), (0.3, 0.8)))
    depth = 1.1 + 0.8 * (label[:, None, None] + uniform(rng, 0.1, 0.9, n))
    wide, foot = uniform(rng, 0.3, 0.4, n) / depth, _HORIZON + 1.15 / depth
    u, v = x - bend * (1.2 - 1.15 / depth) - uniform(rng, -0.2, 0.2, n) / depth, y - foot
    body = np.maximum(np.abs(u) - wide, np.abs(v + 0.45 * wide) - 0.45 * wide)
    cabin = np.maximum(np.abs(u) - 0.65 * wide, np.abs(v + 1.1 * wide) - 0.35 * wide)
    seen = (label < 3).astype(np.float32)[:, None, None]
    tone = random_colours(rng, n, (0.3, 1.0), (0.5, 1.0))
    canvas = paint(canvas, seen * cover(cabin), tone * 0.6)
    return finish(paint(canvas, seen * cover(body), tone), rng, 0.06), label


def x_location(n: int, rng: np.random.Generator) -> Made:
    """In which of sixteen columns the centre of a shape lies, whatever its kind, size, turn, height and colour."""
    label, (x, y) = rng.integers(0, 16, n), grid()
    x0 = -0.75 + 1.5 / 16 * (label[:, None, None] + uniform(rng, 0.1, 0.9, n))
    kind, turn = rng.integers(0, 3, n), uniform(rng, 0, 2 * np.pi, n)
    mask = cover(
        shape_distance(kind, x - x0, y - uniform(rng, -0.6, 0.6, n), uniform(rng, 0.2, 0.38, n), turn)
    )
    tone = random_colours(rng, n, (0.1, 1.0), (0.6, 1.0))
    return finish(paint(ground(n, rng, (0.05, 0.3), 0.1), mask, tone), rng, 0.05), label


def orientation(n: int, rng: np.random.Generator) -> Made:
    """Which of sixteen ways a pointer shows, over the whole circle, at any place, size and colour."""
    label, (x, y) = rng.integers(0, 16, n), grid()
    angle = (2 * np.pi / 16 * (label[:, None, None] + uniform(rng, -0.4, 0.4, n))).astype(np.float32)
    size = uniform(rng, 0.35, 0.6, n)
    x0, y0 = uniform(rng, -0.3, 0.3, n), uniform(rng, -0.3, 0.3, n)
    bar = shape_distance(np.full(n, SHAPES.index("bar")), x - x0, y - y0, size, angle)
    tip = np.hypot(x - x0 - size * np.cos(angle), y - y0 - size * np.sin(angle)) - 0.6 * size
    tone = random_colours(rng, n, (0.1, 1.0), (0.6, 1.0))
    return finish(
        paint(ground(n, rng, (0.05, 0.3), 0.1), cover(np.minimum(bar, tip)), tone), rng, 0.05
    ), label


def _posed(n: int, rng: np.random.Generator, around: Floats, above: Floats) -> NDArray[np.uint8]:
    halves = np.stack([uniform(rng, *bounds, n, ()) for bounds in ((0.3, 0.4), (0.2, 0.28), (0.45, 0.6))], -1)
    tower = np.stack(
        [uniform(rng, *bounds, n, ()) for bounds in ((0.18, 0.28), (0.12, 0.2), (0.14, 0.22))], -1
    )
    mask, shade = solid(around, above, halves, tower)
    tone = random_colours(rng, n, (0.1, 0.8), (0.8, 1.0))[:, None, None] * shade[..., None]
    return finish(paint(ground(n, rng, (0.15, 0.6), 0.15), mask, tone), rng, 0.05)


def azimuth(n: int, rng: np.random.Generator) -> Made:
    """From which of eighteen sides a solid is seen."""
    label = rng.integers(0, 18, n)
    around = (2 * np.pi / 18 * (label + uniform(rng, -0.4, 0.4, n, ()))).astype(np.float32)
    return _posed(n, rng, around, uniform(rng, 0.35, 1.0, n, ())), label


def elevation(n: int, rng: np.random.Generator) -> Made:
    """From which of nine heights a solid is seen, from any side."""
    label = rng.integers(0, 9, n)
    above = (0.05 + 1.35 / 9 * (label + uniform(rng, 0.1, 0.9, n, ()))).astype(np.float32)
    return _posed(n, rng, uniform(rng, 0.0, 2 * np.pi, n, ()), above), label


STRUCTURED: Mapping[str, tuple[int, Callable[[int, np.random.Generator], Made]]] = {
    "count": (8, count),
    "distance": (6, distance),
    "arena": (6, arena),
    "vehicle": (4, vehicle),
    "x-location": (16, x_location),
    "orientation": (16, orientation),
    "azimuth": (18, azimuth),
    "elevation": (9, elevation),
}
"""Name -> number of classes and what draws ``n`` pictures."""
