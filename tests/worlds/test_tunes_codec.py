"""Bands, codec, and the layout of codes: tables, waveforms and the delay pattern of the owner library."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mmalign.data.audio import Clip
from mmalign.errors import UserError
from mmalign.worlds.tunes.bands import BANDS, FRAMES, log_bands, log_bands_of, magnitudes, waveform
from mmalign.worlds.tunes.codec import CODES, PATCH, STEPS, BandCodec
from mmalign.worlds.tunes.hearing import heard
from mmalign.worlds.tunes.model import BASE
from mmalign.worlds.tunes.synth import RATE, SAMPLES, render
from mmalign.worlds.tunes.tune import tune_at


def tone(frequency: float, level: float = 0.3) -> Clip:
    t = np.arange(SAMPLES) / RATE
    return Clip((level * np.sin(2 * np.pi * frequency * t)).astype(np.float32), RATE)


@pytest.fixture(scope="module")
def pieces() -> list[Clip]:
    return [render(tune_at("validation", 7, i)) for i in range(24)]


@pytest.fixture(scope="module")
def shipped() -> BandCodec:
    return BandCodec.load(BASE)


@pytest.mark.parametrize("semitones", [15, 27, 40, 60])
def test_a_tone_stands_in_its_semitone(semitones: int) -> None:
    bands = log_bands_of([tone(110 * 2 ** (semitones / 12))])[0]
    assert bands.shape == (FRAMES, BANDS)
    assert int(bands[50].argmax()) == semitones


def test_bands_can_be_differentiated() -> None:
    samples = torch.from_numpy(tone(440).samples)[None].requires_grad_()
    log_bands(samples)[..., 24].sum().backward()
    assert torch.isfinite(samples.grad).all() and samples.grad.abs().sum() > 0  # type: ignore[union-attr]


def test_magnitudes_invert_the_bands(pieces: list[Clip]) -> None:
    bands = log_bands_of(pieces[:4])
    from mmalign.worlds.tunes.bands import FLOOR, _filters

    found = magnitudes(bands)
    assert (found >= 0).all()
    again = torch.log(_filters() @ found + FLOOR).transpose(1, 2)
    assert (again - bands).abs().mean() < 0.15


def test_a_waveform_sounds_like_its_bands(pieces: list[Clip]) -> None:
    bands = log_bands_of(pieces[:2])
    samples = waveform(bands)
    assert samples.shape == (2, SAMPLES)
    few = (log_bands(waveform(bands, steps=1)) - bands).abs().mean()
    many = (log_bands(samples) - bands).abs().mean()
    assert many < 0.35 and many < few
    assert torch.equal(samples, waveform(bands))


def test_a_fitted_codec_returns_its_own_entries() -> None:
    stream = torch.Generator().manual_seed(0)
    bands = torch.randn((12, FRAMES, BANDS), generator=stream)
    codec = BandCodec.fit(bands, codebooks=2, codes=8, iterations=4)
    codes = codec.encode_bands(bands)
    assert codes.shape == (12, 2, STEPS)
    # by hand: the nearest entry, then the nearest one to what is left
    patch = ((bands[3, 8:12] - codec.mean) / codec.scale).flatten()
    first = int(((codec.books[0] - patch) ** 2).sum(1).argmin())
    second = int(((codec.books[1] - (patch - codec.books[0, first])) ** 2).sum(1).argmin())
    assert codes[3, :, 2].tolist() == [first, second]
    table = (codec.books[0, first] + codec.books[1, second]).view(PATCH, BANDS) * codec.scale + codec.mean
    assert torch.allclose(codec.bands(codes)[3, 8:12], table, atol=1e-5)


def test_more_codebooks_bring_the_sound_nearer(shipped: BandCodec, pieces: list[Clip]) -> None:
    bands = log_bands_of(pieces)
    codes = shipped.encode_bands(bands)
    errors = [float((shipped.bands(codes[:, :k]) - bands).pow(2).mean()) for k in (1, 2, 4, 6)]
    assert errors == sorted(errors, reverse=True) and errors[3] < 0.5 * errors[0]


def test_the_shipped_codec_fits_the_model(shipped: BandCodec) -> None:
    assert shipped.books.shape == (6, CODES, PATCH * BANDS)
    assert shipped.frame_rate * SAMPLES / RATE == STEPS
    assert (BASE / "codec.safetensors").stat().st_size < 2_000_000


def test_frame_first_and_book_first_agree(shipped: BandCodec, pieces: list[Clip]) -> None:
    codes = shipped.encode_clips(pieces[:2])
    assert torch.equal(shipped.encode(pieces[1].samples), codes[1].T)
    assert np.array_equal(shipped.decode(codes[1].T), shipped.clips(codes[1:2])[0].samples)


def test_the_special_token_is_no_code(shipped: BandCodec) -> None:
    with pytest.raises(ValueError, match="codes must be"):
        shipped.bands(torch.full((1, 6, 2), CODES))


def test_a_codec_survives_its_file(shipped: BandCodec, tmp_path: Path) -> None:
    shipped.save(tmp_path)
    again = BandCodec.load(tmp_path)
    assert torch.equal(again.books, shipped.books) and again.scale == shipped.scale
    with pytest.raises(UserError, match="no codec here"):
        BandCodec.load(tmp_path / "nowhere")


class Drawn:
    """An answer that has not been turned into sound yet, as the audio adapter gives it."""

    def __init__(self, codec: BandCodec, codes: torch.Tensor) -> None:
        self.codec, self.codes = codec, codes

    @property
    def samples(self) -> np.ndarray:
        raise AssertionError("no waveform was asked for")


def test_codes_are_heard_by_the_table_and_clips_by_their_samples(
    shipped: BandCodec, pieces: list[Clip], tmp_path: Path
) -> None:
    codes = shipped.encode_clips(pieces[:1])
    bands = heard([Drawn(shipped, codes[0].T), pieces[0], pieces[0].save_as(tmp_path / "a")])
    assert torch.equal(bands[0], shipped.bands(codes)[0])
    assert torch.equal(bands[1], log_bands_of(pieces[:1])[0])
    assert (bands[2] - bands[1]).abs().mean() < 0.05
    with pytest.raises(UserError, match="expected a sound"):
        heard([3])


def test_other_rates_and_lengths_are_brought_to_two_seconds() -> None:
    slow = tone(440)
    twice = Clip(np.repeat(slow.samples[: RATE // 2], 2), 2 * RATE)
    bands = heard([twice, slow])
    assert int(bands[0, 10].argmax()) == int(bands[1, 10].argmax()) == 24
    assert bands[0, 60].max() < -6  # half a second of tone, then silence
