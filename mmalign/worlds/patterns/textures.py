"""Textures: fields in [0, 1] that two colours are mixed by, one kind per picture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmalign.worlds.patterns.canvas import SIDE, Floats, grid, random_colours, turned, uniform

__all__ = ["TEXTURES", "band_noise", "ground", "mixed", "texture_fields", "waves"]

TEXTURES = ("plain", "stripes", "checks", "dots", "rings", "clouds", "grain", "bricks")


def texture_fields(kind: NDArray[np.integer], rng: np.random.Generator) -> Floats:
    """Fields ``[N, S, S]`` in [0, 1] with scale, turn and place drawn per picture.

    Args:
        kind: places in ``TEXTURES``, ``[N]``.
        rng: draws everything else.
    """
    n = len(kind)
    x, y = grid()
    scale, angle = uniform(rng, 2.2, 4.2, n), uniform(rng, 0.0, 2 * np.pi, n)
    x, y = x + uniform(rng, -1, 1, n), y + uniform(rng, -1, 1, n)
    u, v = turned(x, y, angle)
    u, v = u * scale, v * scale
    clouds, grain = band_noise(n, 2.0, 0.5, rng), band_noise(n, 8.0, 0.35, rng)
    row = np.floor(v)
    fields = {
        "plain": 0.15 * clouds + 0.1,
        "stripes": _soft(np.sin(np.pi * u)),
        "checks": _soft(np.sin(np.pi * u) * np.sin(np.pi * v)),
        "dots": _soft(0.1 - np.hypot((u + 0.5) % 1 - 0.5, (v + 0.5) % 1 - 0.5) + 0.22, 12.0),
        "rings": _soft(np.sin(np.pi * 1.2 * np.hypot(u * 0.8, v * 0.8))),
        "clouds": clouds,
        "grain": grain,
        "bricks": _soft(
            0.36 - np.maximum(np.abs(v - row - 0.5), np.abs((u * 0.6 + 0.5 * (row % 2)) % 1 - 0.5)), 16.0
        ),
    }
    found = np.empty((n, SIDE, SIDE), dtype=np.float32)
    for number, name in enumerate(TEXTURES):
        of_kind = np.flatnonzero(kind == number)
        found[of_kind] = fields[name][of_kind]
    return found


def waves(frequency: Floats, angle: Floats, phase: Floats) -> Floats:
    """Sine waves ``[N, S, S]`` in [0, 1] of ``frequency`` periods per picture along ``angle``, ``[N, 1, 1]`` each."""
    x, y = grid()
    u, _ = turned(x, y, angle)
    return (0.5 + 0.5 * np.sin(np.pi * frequency * u + phase)).astype(np.float32)


def band_noise(n: int, frequency: float | Floats, width: float, rng: np.random.Generator) -> Floats:
    """Noise ``[N, S, S]`` in [0, 1] whose power lies around ``frequency`` periods per picture.

    Args:
        n: pictures.
        frequency: of the band's middle, one number or ``[N, 1, 1]``.
        width: of the band, in octaves (standard deviation).
        rng: draws the phases.
    """
    fy, fx = np.fft.fftfreq(SIDE) * SIDE, np.fft.rfftfreq(SIDE) * SIDE
    radius = np.maximum(np.hypot(fy[:, None], fx[None, :]), 1e-6)[None]
    gain = np.exp(-((np.log2(radius / frequency) / width) ** 2) / 2)
    gain[:, 0, 0] = 0.0
    white = np.fft.rfft2(rng.standard_normal((n, SIDE, SIDE), dtype=np.float32))
    field = np.fft.irfft2(white * gain, s=(SIDE, SIDE))
    spread = field.std(axis=(1, 2), keepdims=True) + 1e-6
    return np.clip(0.5 + field / spread / 4, 0.0, 1.0).astype(np.float32)


def mixed(field: Floats, first: Floats, second: Floats) -> Floats:
    """Pictures ``[N, S, S, 3]`` between two colours ``[N, 3]`` by a field ``[N, S, S]``."""
    share = field[..., None]
    return (first[:, None, None] * (1 - share) + second[:, None, None] * share).astype(np.float32)


def ground(
    n: int, rng: np.random.Generator, value: tuple[float, float] = (0.2, 0.6), step: float = 0.2
) -> Floats:
    """Backgrounds ``[n, S, S, 3]`` of any texture in two tones of one random colour, ``step`` apart at most."""
    tone = random_colours(rng, n, (0.1, 0.7), value)
    other = np.clip(tone + uniform(rng, -step, step, n, (1,)), 0.0, 1.0)
    return mixed(texture_fields(rng.integers(0, len(TEXTURES), n), rng), tone, other)


def _soft(field: Floats, steep: float = 3.0) -> Floats:
    return np.clip(0.5 + steep * field / 2, 0.0, 1.0).astype(np.float32)
