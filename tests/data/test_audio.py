"""Sounds as values: files and pictures of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmalign.data.audio import Clip, spectrogram
from mmalign.errors import UserError


def tone(frequency: float, seconds: float = 0.5, rate: int = 8000) -> Clip:
    t = np.arange(int(seconds * rate)) / rate
    return Clip((0.5 * np.sin(2 * np.pi * frequency * t)).astype(np.float32), rate)


def test_a_file_keeps_rate_and_samples_to_sixteen_bits(tmp_path: Path) -> None:
    clip = tone(440)
    path = clip.save_as(tmp_path / "row.7")
    assert path == tmp_path / "row.7.wav"
    back = Clip.load(path)
    assert back.rate == clip.rate and back.seconds == pytest.approx(0.5)
    assert np.abs(back.samples - clip.samples).max() <= 1 / 32767


def test_too_loud_samples_are_clipped_not_wrapped(tmp_path: Path) -> None:
    back = Clip.load(Clip(np.array([2.0, -3.0, 0.1], dtype=np.float32), 8000).save_as(tmp_path / "loud"))
    assert back.samples[0] > 0.99 and back.samples[1] < -0.99


def test_channels_are_averaged(tmp_path: Path) -> None:
    import soundfile

    both = np.stack([np.full(10, 0.5), np.full(10, -0.25)], axis=1)
    soundfile.write(str(tmp_path / "two.wav"), both, 8000)
    assert Clip.load(tmp_path / "two.wav").samples == pytest.approx(np.full(10, 0.125), abs=1e-4)


def test_what_is_no_sound_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such sound file"):
        Clip.load(tmp_path / "none.wav")
    (tmp_path / "text.wav").write_text("not a sound")
    with pytest.raises(UserError, match="not a sound that soundfile can read"):
        Clip.load(tmp_path / "text.wav")
    with pytest.raises(ValueError, match="float32"):
        Clip(np.zeros(3), 8000)
    with pytest.raises(ValueError, match="finite"):
        Clip(np.array([np.nan], dtype=np.float32), 8000)


def test_a_tone_is_a_line_at_its_height() -> None:
    picture = np.asarray(spectrogram(tone(1000), window=512))
    rows = picture.shape[0]
    brightest = rows - 1 - int(np.argmax(picture[:, 10].astype(int)))
    assert brightest == pytest.approx(1000 / 8000 * 512, abs=1)
    assert np.asarray(spectrogram(tone(2000), window=512))[::-1][64, 10] < 100
