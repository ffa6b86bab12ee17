"""A second opinion without any training: tempo, mode, register, dynamics and contour by signal processing.

Each estimator reads log bands ``[F, BANDS]`` and knows how pieces are synthesised; what fools the judge's net need not
fool these.  Timbre has none.  Constants were set on training pieces.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from scipy.signal import find_peaks
from torch import Tensor

from mmalign.worlds.tunes.bands import FLOOR, HOP
from mmalign.worlds.tunes.synth import NOTES_PER_SECOND, RATE, SECONDS

__all__ = ["MEASURED", "brightness", "measured_attributes", "pulse_clarity"]

MEASURED = ("tempo", "mode", "register", "dynamics", "contour")
"""The attributes that are measured."""
_Floats = npt.NDArray[np.float64]
_PER_SECOND = RATE // HOP
_QUIET = 3.1
"""Mean log level of loud bands between soft and loud, in nats."""
_PEAK, _APART = 0.4, 3
"""Least prominence of an onset against the highest ones, and least distance in frames."""
_THIRDS = {"minor": 18, "major": 19}
"""Bands of the chord's third: E flat and E above middle C, which is band 15."""


def _magnitude(bands: Tensor) -> _Floats:
    found: _Floats = np.clip(np.exp(bands.double().numpy()) - FLOOR, 0, None)
    return found


def _level(magnitude: _Floats) -> _Floats:
    """Log of the loudness of each frame ``[F]``."""
    found: _Floats = np.log(np.sqrt((magnitude**2).sum(1)) + FLOOR)
    return found


def _onsets(magnitude: _Floats) -> _Floats:
    """Rise of compressed loudness from frame to frame, summed over bands, ``[F]``; without its slow drift."""
    pressed = np.log1p(0.3 * magnitude / (magnitude.mean() + 1e-9))
    rise = np.clip(pressed[3:] - pressed[:-3], 0, None).sum(1)
    found: _Floats = rise - np.convolve(rise, np.ones(25) / 25, "same")
    return found


def _repetition(onsets: _Floats, lag: int) -> float:
    """Autocorrelation of the onsets at a lag in frames, the better of it and its neighbours."""
    power = float((onsets**2).sum()) + 1e-9
    near = (max(1, lag - 1), lag, lag + 1)
    return max(float((onsets[:-k] * onsets[k:]).sum()) / power for k in near)


def _tempo(magnitude: _Floats) -> str:
    """How many onsets there are: 4, 8 or 16 notes, cut halfway in their logarithm."""
    onsets = _onsets(magnitude)
    peaks, _ = find_peaks(onsets, prominence=_PEAK * float(np.percentile(onsets, 97)), distance=_APART)
    rate = (len(peaks) + 1) / SECONDS
    near = {name: abs(np.log(rate / known)) for name, known in NOTES_PER_SECOND.items()}
    return min(near, key=lambda name: float(near[name]))


def _melody(magnitude: _Floats) -> _Floats:
    """Loudest band of each frame that the standing chord does not explain, ``[F]``; harmonics fold to their lowest."""
    standing = np.percentile(magnitude, 15, axis=0)
    moving = np.clip(magnitude - 1.5 * standing, 0, None)
    harmonic = sum(
        np.pad(moving[:, up:], ((0, 0), (0, up))) * share for up, share in ((0, 1.0), (12, 0.5), (19, 0.3))
    )
    found: _Floats = np.argmax(harmonic, axis=1).astype(float)
    return found


def _register(pitch: _Floats, weight: _Floats) -> str:
    """Octave of the mean pitch, in bands above 110 Hz: tonics stand at 3, 15 and 27."""
    centre = float((pitch * weight).sum() / weight.sum())
    return "low" if centre < 15 else "middle" if centre < 28 else "high"


def _contour(pitch: _Floats) -> str:
    """Mean pitch of the first, middle and last part against one another."""
    first, middle, last = (float(np.median(part)) for part in np.array_split(pitch, 3))
    if middle > max(first, last) + 0.5 * abs(last - first):
        return "arching"
    return "rising" if last > first else "falling"


def measured_attributes(bands: Tensor) -> list[dict[str, str]]:
    """Attribute -> value for every piece of log bands ``[B, F, BANDS]``."""
    return [_measure(_magnitude(piece)) for piece in bands.float()]


def _measure(magnitude: _Floats) -> dict[str, str]:
    level = _level(magnitude)
    third = {name: float(magnitude[:, band].mean()) for name, band in _THIRDS.items()}
    pitch = _melody(magnitude / np.exp(level)[:, None])
    start, end = float(level[5:25].mean()), float(level[-25:-5].mean())
    dynamics = "growing" if end - start > 1.0 else "soft" if (start + end) / 2 < _QUIET else "loud"
    return {
        "tempo": _tempo(magnitude / np.exp(level).clip(0.01)[:, None]),
        "mode": max(third, key=lambda name: third[name]),
        "register": _register(pitch, np.ones_like(pitch)),
        "dynamics": dynamics,
        "contour": _contour(pitch),
    }


def brightness(bands: Tensor) -> list[float]:
    """Mean band of the magnitude, in octaves above 110 Hz, per piece of ``[B, F, BANDS]``."""
    magnitude = (bands.double().exp() - FLOOR).clamp(min=0)
    place = magnitude.sum(1) @ (torch.arange(magnitude.shape[2], dtype=torch.float64) / 12)
    found: list[float] = (place / magnitude.sum((1, 2)).clamp(min=1e-12)).tolist()
    return found


def pulse_clarity(bands: Tensor) -> list[float]:
    """How well onsets repeat at the clearest of the three beats, about 0..1, per piece of ``[B, F, BANDS]``."""
    found = []
    for piece in bands.float():
        magnitude = _magnitude(piece)
        onsets = _onsets(magnitude / np.exp(_level(magnitude)).clip(0.01)[:, None])
        found.append(
            max(_repetition(onsets, round(_PER_SECOND / rate)) for rate in NOTES_PER_SECOND.values())
        )
    return found
