"""Sounds of rows: opening, naming and silencing them, and answers that become sound only when somebody listens."""

from __future__ import annotations

import hashlib
import io
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mmalign.data.audio import Clip, spectrogram
from mmalign.errors import UserError
from mmalign.modalities.audio.codec import Codec

__all__ = [
    "LazyClip",
    "content_name",
    "open_sound",
    "resampled",
    "silence",
    "spectrogram_png",
    "wav_bytes",
]


class LazyClip:
    """A drawn piece: its codes, and its sound once it is asked for (a codec takes longer than the policy's reward).

    Args:
        codec: decodes.
        codes: ``[F, K]``.
    """

    def __init__(self, codec: Codec, codes: Tensor) -> None:
        self.codes = codes
        self.codec = codec
        self._clip: Clip | None = None

    @property
    def clip(self) -> Clip:
        """The sound."""
        if self._clip is None:
            wave = self.codec.decode(self.codes)
            wave = wave.mean(1) if wave.ndim == 2 else wave
            self._clip = Clip(np.ascontiguousarray(wave, dtype=np.float32), self.codec.sampling_rate)
        return self._clip

    @property
    def samples(self) -> np.ndarray:
        """``[n]`` float32."""
        return self.clip.samples

    @property
    def rate(self) -> int:
        """Samples per second."""
        return self.codec.sampling_rate

    @property
    def seconds(self) -> float:
        """How long the sound is."""
        return self.clip.seconds

    def save_as(self, stem: Path) -> Path:
        """Write ``stem`` + ``.wav`` and return its path."""
        return self.clip.save_as(stem)


def open_sound(media: Any, row_id: str, rate: int | None = None) -> Clip:
    """``media`` (clip, sound file or samples ``[n]`` or ``[n, channels]``) as a mono clip, at ``rate`` where given.

    Bare samples are taken to be at ``rate``.

    Raises:
        UserError: naming the row, when there is no such file, it holds no sound, or the value is none.
    """
    if isinstance(media, Clip | LazyClip):
        clip = media if isinstance(media, Clip) else media.clip
    elif isinstance(media, str | os.PathLike):
        try:
            clip = Clip.load(Path(media))
        except UserError as error:
            raise UserError(f'row "{row_id}": {error}') from error
    elif isinstance(media, np.ndarray | Tensor) and rate is not None:
        samples = np.asarray(media, dtype=np.float32)
        if samples.ndim not in (1, 2) or not samples.size:
            raise UserError(
                f'row "{row_id}": samples must be [n] or [n, channels], not {list(samples.shape)}'
            )
        clip = Clip(np.ascontiguousarray(samples.mean(1) if samples.ndim == 2 else samples), rate)
    else:
        raise UserError(
            f'row "{row_id}": a sound must be a clip, a file or samples, not {type(media).__name__}'
        )
    return clip if rate is None or rate == clip.rate else resampled(clip, rate)


def resampled(clip: Clip, rate: int) -> Clip:
    """The clip at another rate, by a polyphase filter."""
    from scipy.signal import resample_poly

    common = math.gcd(rate, clip.rate)
    samples = resample_poly(clip.samples, rate // common, clip.rate // common)
    return Clip(samples.astype(np.float32), rate)


def silence(media: Any, row_id: str) -> Any:
    """Silence as long as ``media``."""
    if isinstance(media, np.ndarray | Tensor):
        return media * 0
    clip = open_sound(media, row_id)
    return Clip(np.zeros_like(clip.samples), clip.rate)


def content_name(media: Any, row_id: str) -> str:
    """A short name that changes whenever the sound does (path + mtime + size, or a hash)."""
    if isinstance(media, str | os.PathLike):
        path = Path(media)
        if not path.is_file():
            raise UserError(f'row "{row_id}": sound file "{path}" does not exist')
        stat = path.stat()
        return f"{path.resolve()}|{stat.st_mtime_ns}|{stat.st_size}"
    samples = np.asarray(media.samples if isinstance(media, Clip | LazyClip) else media)
    rate = media.rate if isinstance(media, Clip | LazyClip) else "?"
    return f"{rate}|{samples.shape}|{hashlib.sha1(samples.tobytes(), usedforsecurity=False).hexdigest()}"


def wav_bytes(clip: Clip) -> bytes:
    """The clip as a 16-bit WAV file."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(clip.samples, -1.0, 1.0), clip.rate, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def spectrogram_png(clip: Clip) -> bytes:
    """The clip's spectrogram as a PNG file."""
    buffer = io.BytesIO()
    spectrogram(clip).save(buffer, format="PNG")
    return buffer.getvalue()
