"""A piece of sound as a value: samples, their rate, and how it becomes a file or a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mmalign.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Clip", "spectrogram"]


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """Mono sound.

    Args:
        samples: ``[n]`` float32 in -1..1.
        rate: samples per second.

    Raises:
        ValueError: when ``samples`` is not one row of finite float32 or ``rate`` is not positive.
    """

    samples: npt.NDArray[np.float32]
    rate: int

    def __post_init__(self) -> None:
        if self.samples.ndim != 1 or self.samples.dtype != np.float32:
            raise ValueError(f"expected float32 [n], got {self.samples.dtype} {list(self.samples.shape)}")
        if self.rate < 1:
            raise ValueError(f"rate is {self.rate}")
        if not np.isfinite(self.samples).all():
            raise ValueError("samples are not all finite")

    @property
    def seconds(self) -> float:
        """How long the sound is."""
        return len(self.samples) / self.rate

    def save_as(self, stem: Path) -> Path:
        """Write ``stem`` + ``.wav`` (16 bits; samples beyond -1..1 are clipped) and return its path.

        Raises:
            UserError: when soundfile is not installed.
        """
        path = stem.with_name(stem.name + ".wav")
        _soundfile().write(str(path), np.clip(self.samples, -1.0, 1.0), self.rate, subtype="PCM_16")
        return path

    @classmethod
    def load(cls, path: Path) -> Clip:
        """Read a sound file; several channels are averaged.

        Raises:
            UserError: when soundfile is not installed, or the file is missing or no sound it can read.
        """
        reader = _soundfile()
        if not path.is_file():
            raise UserError(f"{path}: no such sound file")
        try:
            samples, rate = reader.read(str(path), dtype="float32", always_2d=True)
        except reader.LibsndfileError as error:
            raise UserError(f"{path}: not a sound that soundfile can read ({error})") from error
        return cls(np.ascontiguousarray(samples.mean(1, dtype=np.float32)), int(rate))


def spectrogram(clip: Clip, *, window: int = 512, hop: int = 128, range_db: float = 80.0) -> Image:
    """A grey picture of the clip's power: time to the right, frequency upwards (linear, to half the rate).

    Args:
        clip: the sound; shorter ones than ``window`` are padded with silence.
        window: samples per Hann window.
        hop: samples between columns.
        range_db: what lies this far below the loudest point is black.
    """
    from PIL import Image

    padded = np.pad(clip.samples, (0, max(0, window - len(clip.samples))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop] * np.hanning(window)
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    level = 10 * np.log10(np.maximum(power, 1e-12) / max(float(power.max()), 1e-12))
    grey = np.clip(1 + level / range_db, 0, 1) * 255
    return Image.fromarray(grey.T[::-1].astype(np.uint8), mode="L")


def _soundfile():  # type: ignore[no-untyped-def]
    try:
        import soundfile
    except ImportError as error:
        raise UserError('sound files need soundfile: pip install "mmalign[audio]"') from error
    return soundfile
