"""Many small colour pictures at once: coordinates, colours, painting through masks, noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "SIDE",
    "Floats",
    "cover",
    "finish",
    "grid",
    "hsv",
    "paint",
    "random_colours",
    "stamped",
    "turned",
    "uniform",
]

SIDE = 24
"""Width and height of a picture in pixels."""
Floats = NDArray[np.floating[Any]]
"""Numbers of any precision; what the functions of this world return is float32."""


def grid() -> tuple[Floats, Floats]:
    """Coordinates ``x`` and ``y`` of the pixels' centres, each ``[1, S, S]``, from -1 to 1; ``y`` grows downwards."""
    places = ((np.arange(SIDE, dtype=np.float32) + 0.5) / SIDE * 2 - 1).astype(np.float32)
    return np.broadcast_to(places, (1, SIDE, SIDE)), np.broadcast_to(places[:, None], (1, SIDE, SIDE))


def uniform(
    rng: np.random.Generator, low: float, high: float, n: int, shape: Sequence[int] = (1, 1)
) -> Floats:
    """Draws ``[n, *shape]`` between two bounds; the default shape broadcasts over pixels."""
    return rng.uniform(low, high, (n, *shape)).astype(np.float32)


def hsv(hue: Floats, saturation: Floats, value: Floats) -> Floats:
    """Colours ``[..., 3]`` in [0, 1] of hue (1 is the whole circle), saturation and value, each ``[...]``."""
    channel = np.array([5.0, 3.0, 1.0], dtype=np.float32)
    k = (channel + (hue * 6.0)[..., None]) % 6.0
    fall = np.clip(np.minimum(k, 4.0 - k), 0.0, 1.0)
    return (value[..., None] * (1.0 - saturation[..., None] * fall)).astype(np.float32)


def random_colours(
    rng: np.random.Generator, n: int, saturation: tuple[float, float], value: tuple[float, float]
) -> Floats:
    """Colours ``[n, 3]`` of any hue, with saturation and value between bounds."""
    hue, s, v = (uniform(rng, low, high, n, ()) for low, high in ((0.0, 1.0), saturation, value))
    return hsv(hue, s, v)


def turned(x: Floats, y: Floats, angle: Floats) -> tuple[Floats, Floats]:
    """Coordinates in a frame turned by ``angle`` (radians, clockwise on the screen)."""
    c, s = np.cos(angle), np.sin(angle)
    return c * x + s * y, c * y - s * x


def cover(distance: Floats) -> Floats:
    """Share of each pixel inside a shape, from the signed distance to its edge (negative within), anti-aliased."""
    return np.clip(0.5 - distance * (SIDE / 2), 0.0, 1.0).astype(np.float32)


def paint(canvas: Floats, mask: Floats, colour: Floats) -> Floats:
    """``canvas [N, S, S, 3]`` with ``colour`` (``[N, 3]`` or ``[N, S, S, 3]``) where ``mask [N, S, S]`` is 1."""
    tone = colour[:, None, None, :] if colour.ndim == 2 else colour
    return (canvas + mask[..., None] * (tone - canvas)).astype(np.float32)


def stamped(
    book: Floats, page: NDArray[np.integer], x0: Floats, y0: Floats, size: Floats, angle: Floats
) -> Floats:
    """Masks ``[N, S, S]`` of pages of a book of square masks, each at its own place, by bilinear look-up.

    Args:
        book: ``[K, M, M]`` in [0, 1].
        page: which one, ``[N]``.
        x0: centre, ``[N, 1, 1]``.
        y0: likewise.
        size: half a page's width on the picture, ``[N, 1, 1]``.
        angle: radians, ``[N, 1, 1]``.
    """
    x, y = grid()
    u, v = turned(x - x0, y - y0, angle)
    fine = book.shape[-1]
    across, down = (u / size + 1) * fine / 2 - 0.5, (v / size + 1) * fine / 2 - 0.5
    inside = (np.maximum(np.abs(u), np.abs(v)) < size).astype(np.float32)
    column, row = np.clip(across, 0.0, fine - 1.001), np.clip(down, 0.0, fine - 1.001)
    left, top = column.astype(int), row.astype(int)
    a, b, leaf = column - left, row - top, page[:, None, None]
    upper = book[leaf, top, left] * (1 - a) + book[leaf, top, left + 1] * a
    lower = book[leaf, top + 1, left] * (1 - a) + book[leaf, top + 1, left + 1] * a
    return (inside * (upper * (1 - b) + lower * b)).astype(np.float32)


def finish(canvas: Floats, rng: np.random.Generator, noise: float = 0.05) -> NDArray[np.uint8]:
    """Pictures ``[N, 3, S, S]`` in 0..255, with noise, and a brightness and a contrast of each picture's own."""
    n = len(canvas)
    contrast = uniform(rng, 0.8, 1.1, n, (1, 1, 1))
    bright = uniform(rng, -0.08, 0.08, n, (1, 1, 1))
    shown = (canvas - 0.5) * contrast + 0.5 + bright
    shown = shown + noise * rng.standard_normal(canvas.shape, dtype=np.float32)
    return np.round(np.clip(shown, 0.0, 1.0) * 255).astype(np.uint8).transpose(0, 3, 1, 2).copy()
