"""From any answer (a clip, drawn codes, a file) to the two seconds of log bands that listeners read."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mmalign.data.audio import Clip
from mmalign.errors import UserError
from mmalign.worlds.tunes.bands import FLOOR, FRAMES, log_bands
from mmalign.worlds.tunes.codec import BandCodec
from mmalign.worlds.tunes.synth import RATE, SAMPLES

__all__ = ["heard", "same_length"]


def heard(answers: Sequence[Any]) -> Tensor:
    """Log bands ``[B, FRAMES, BANDS]`` of answers, cut to two seconds or filled up with silence.

    An answer that still carries its ``codes`` ``[T, K]`` and a :class:`BandCodec` is decoded by the codec's table, so
    that no reward waits for a waveform; any other is turned into bands from its samples, at another rate resampled.

    Raises:
        UserError: for an answer that is no sound.
    """
    found: list[Tensor] = []
    for answer in answers:
        codec = getattr(answer, "codec", None)
        if isinstance(codec, BandCodec):
            found.append(same_length(codec.bands(torch.as_tensor(answer.codes).T[None]))[0])
        else:
            found.append(same_length(log_bands(torch.from_numpy(_samples(answer))[None]))[0])
    return torch.stack(found)


def same_length(bands: Tensor) -> Tensor:
    """Bands ``[B, FRAMES, BANDS]`` of ``[B, F, BANDS]``."""
    bands = bands[:, :FRAMES]
    return functional.pad(bands, (0, 0, 0, FRAMES - bands.shape[1]), value=math.log(FLOOR))


def _samples(answer: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Float32 samples at the world's rate, at least a window's worth."""
    clip = Clip.load(Path(answer)) if isinstance(answer, str | os.PathLike) else answer
    if not hasattr(clip, "samples") or not hasattr(clip, "rate"):
        raise UserError(
            f"expected a sound (a clip with samples and rate, or a file), found {type(answer).__name__}"
        )
    samples = np.asarray(clip.samples, dtype=np.float32)
    if clip.rate != RATE:
        from scipy.signal import resample_poly

        common = math.gcd(int(clip.rate), RATE)
        samples = resample_poly(samples, RATE // common, int(clip.rate) // common).astype(np.float32)
    samples = samples[:SAMPLES]
    return np.pad(samples, (0, SAMPLES - len(samples)))
