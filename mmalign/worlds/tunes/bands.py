"""Log power in semitone bands: what the codec codes and what every listener hears."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mmalign.data.audio import Clip
from mmalign.worlds.tunes.synth import RATE, SAMPLES

__all__ = ["BANDS", "FLOOR", "FRAMES", "HOP", "WINDOW", "log_bands", "log_bands_of", "magnitudes", "waveform"]

WINDOW, HOP, BANDS = 2048, 320, 72
"""Samples per Hann window, samples between frames, number of bands: one per semitone from 110 Hz, six octaves."""
FRAMES = SAMPLES // HOP
"""Frames of a piece: 100, one per 20 ms."""
FLOOR = 1e-3
"""Magnitude added before the logarithm, about that of the pieces' noise floor."""
_LOWEST = 110.0


@functools.cache
def _filters() -> Tensor:
    """Triangular filters ``[BANDS, WINDOW // 2 + 1]``, each row summing to 1; never narrower than one bin."""
    bins = np.arange(WINDOW // 2 + 1) * RATE / WINDOW
    centres = _LOWEST * 2 ** (np.arange(BANDS) / 12)
    width = np.maximum(centres * (2 ** (1 / 12) - 1), RATE / WINDOW)
    rows = np.clip(1 - np.abs(bins - centres[:, None]) / width[:, None], 0, None)
    return torch.from_numpy((rows / rows.sum(1, keepdims=True)).astype(np.float32))


def _spectrum(samples: Tensor) -> Tensor:
    """Complex ``[B, WINDOW // 2 + 1, T // HOP + 1]`` of ``[B, T]``."""
    window = torch.hann_window(WINDOW, device=samples.device)
    return torch.stft(samples, WINDOW, HOP, window=window, center=True, return_complex=True)


def log_bands(samples: Tensor) -> Tensor:
    """Log magnitude in nats, ``[B, T // HOP, BANDS]``, of samples ``[B, T]``; differentiable."""
    magnitude = _spectrum(samples).abs()[..., : samples.shape[-1] // HOP]
    return torch.log(_filters().to(samples) @ magnitude + FLOOR).transpose(1, 2)


def log_bands_of(clips: Sequence[Clip]) -> Tensor:
    """:func:`log_bands` of clips of one length, ``[B, F, BANDS]``.

    Raises:
        ValueError: when a clip has another rate than the world's 16 kHz.
    """
    if any(clip.rate != RATE for clip in clips):
        raise ValueError(
            f"expected clips of {RATE} samples per second, got {sorted({c.rate for c in clips})}"
        )
    return log_bands(torch.from_numpy(np.stack([clip.samples for clip in clips])))


@functools.cache
def _spread() -> Tensor:
    """Start of :func:`magnitudes`: each bin the weighted mean of the bands that hear it, ``[bins, BANDS]``."""
    filters = _filters()
    return (filters / filters.sum(0, keepdim=True).clamp(min=1e-8)).T.contiguous()


def magnitudes(bands: Tensor, steps: int = 30) -> Tensor:
    """Non-negative magnitudes ``[B, WINDOW // 2 + 1, F]`` whose bands are nearest to log bands ``[B, F, BANDS]``.

    Multiplicative updates of non-negative least squares (Lee and Seung 2001), from the bands spread over their bins.
    """
    filters = _filters()
    wanted = (bands.exp() - FLOOR).clamp(min=0).transpose(1, 2)
    found = _spread() @ wanted
    pull = filters.T @ wanted
    for _ in range(steps):
        found = found * pull / (filters.T @ (filters @ found)).clamp(min=1e-9)
    return found


def waveform(bands: Tensor, steps: int = 12) -> Tensor:
    """Samples ``[B, F * HOP]`` for log bands ``[B, F, BANDS]``: magnitudes, then phases by fast Griffin-Lim.

    Deterministic: phases start from a fixed stream.

    *Reference:* Perraudin, Balazs and Soendergaard, A fast Griffin-Lim algorithm (WASPAA 2013), momentum 0.99.
    """
    target = magnitudes(bands)
    target = torch.cat([target, target[..., -1:]], dim=-1)
    window = torch.hann_window(WINDOW)
    length = bands.shape[1] * HOP
    stream = torch.Generator().manual_seed(0)
    angles = torch.polar(
        torch.ones_like(target),
        2 * torch.pi * torch.rand(target.shape[1:], generator=stream).expand_as(target),
    )
    before = torch.zeros_like(angles)
    for _ in range(steps):
        samples = torch.istft(target * angles, WINDOW, HOP, window=window, length=length)
        rebuilt = _spectrum(samples)
        angles = rebuilt - before * (0.99 / 1.99)
        before = rebuilt
        angles = angles / angles.abs().clamp(min=1e-12)
    return torch.istft(target * angles, WINDOW, HOP, window=window, length=length)
