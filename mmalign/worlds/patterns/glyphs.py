"""Glyphs: a fixed alphabet of strokes, drawn at any place, size and turn; the pictures a backbone is pretrained on."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mmalign.rng import numpy_generator
from mmalign.worlds.patterns.canvas import Floats, finish, hsv, paint, stamped, uniform
from mmalign.worlds.patterns.textures import TEXTURES, mixed, texture_fields

__all__ = ["ATTRIBUTES", "GLYPHS", "glyph_cover", "glyph_pictures"]

GLYPHS = 64
"""Letters of the alphabet."""
HUES = 6
ATTRIBUTES: Mapping[str, int] = {"glyph": GLYPHS, "texture": len(TEXTURES), "hue": HUES, "ground_hue": HUES}
"""What a picture is labelled with, and how many labels each has."""
_FINE = 32


@cache
def _alphabet() -> Floats:
    """Every glyph on a fine grid ``[GLYPHS, 32, 32]``: three to five strokes between points of a 3 x 3 lattice."""
    places = (np.arange(_FINE, dtype=np.float32) + 0.5) / _FINE * 2 - 1
    x, y = places[None, :], places[:, None]
    drawn = np.zeros((GLYPHS, _FINE, _FINE), dtype=np.float32)
    lattice = [(a * 0.72, b * 0.72) for a in (-1, 0, 1) for b in (-1, 0, 1)]
    for number in range(GLYPHS):
        rng = numpy_generator(0, "glyph", number)
        path = rng.choice(9, size=int(rng.integers(4, 7)), replace=False)
        for a, b in pairwise(path):
            (ax, ay), (bx, by) = lattice[a], lattice[b]
            length = (bx - ax) ** 2 + (by - ay) ** 2
            t = np.clip(((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length, 0.0, 1.0)
            gap = np.hypot(x - ax - t * (bx - ax), y - ay - t * (by - ay))
            drawn[number] = np.maximum(drawn[number], np.clip((0.24 - gap) * 12, 0.0, 1.0))
    return drawn


def glyph_cover(glyph: NDArray[np.integer], x0: Floats, y0: Floats, size: Floats, angle: Floats) -> Floats:
    """Masks ``[N, S, S]`` of glyphs at a centre, with half a width and a turn, each ``[N, 1, 1]``."""
    return stamped(_alphabet(), glyph, x0, y0, size, angle)


def glyph_pictures(
    n: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.int64]]]:
    """Pictures ``[n, 3, S, S]`` of one glyph before a texture, and their attributes, each ``[n]``."""
    labels = {name: rng.integers(0, count, n) for name, count in ATTRIBUTES.items()}
    ground = _tone(labels["ground_hue"], rng, (0.3, 0.9), (0.25, 0.6))
    second = np.clip(ground + uniform(rng, 0.12, 0.3, n, (1,)) * rng.choice([-1.0, 1.0], (n, 1)), 0, 1)
    canvas = mixed(texture_fields(labels["texture"], rng), ground, second.astype(np.float32))
    mask = glyph_cover(
        labels["glyph"],
        uniform(rng, -0.35, 0.35, n),
        uniform(rng, -0.35, 0.35, n),
        uniform(rng, 0.5, 0.8, n),
        uniform(rng, -0.5, 0.5, n),
    )
    canvas = paint(canvas, mask, _tone(labels["hue"], rng, (0.4, 1.0), (0.75, 1.0)))
    return finish(canvas, rng, 0.04), labels


def _tone(
    hue: NDArray[np.int64],
    rng: np.random.Generator,
    saturation: tuple[float, float],
    value: tuple[float, float],
) -> Floats:
    n = len(hue)
    exact = ((hue + uniform(rng, -0.35, 0.35, n, ())) / HUES) % 1.0
    return hsv(exact.astype(np.float32), uniform(rng, *saturation, n, ()), uniform(rng, *value, n, ()))
