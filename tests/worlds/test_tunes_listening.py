"""What judges of the tunes world hear in real pieces: the net, signal processing, and measures of taste."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from mmalign.errors import UserError
from mmalign.worlds.tunes.codec import BandCodec
from mmalign.worlds.tunes.corpus import Pool, make_pool
from mmalign.worlds.tunes.listener import EAR, JUDGE, Listener, Trunk, accuracy, attributes_heard
from mmalign.worlds.tunes.model import BASE
from mmalign.worlds.tunes.pretrain import PretrainPlan
from mmalign.worlds.tunes.probe import adherence
from mmalign.worlds.tunes.ship import file_sha256
from mmalign.worlds.tunes.signals import MEASURED, brightness, measured_attributes, pulse_clarity
from mmalign.worlds.tunes.tune import ATTRIBUTES


@pytest.fixture(scope="module")
def pool() -> Pool:
    return make_pool("test", 80, 3, "listening")


@pytest.mark.parametrize("coded", [False, True])
def test_the_judge_hears_every_attribute_also_through_the_codec(pool: Pool, coded: bool) -> None:
    codec = BandCodec.load(BASE)
    bands = codec.bands(pool.codes(codec).long()) if coded else pool.bands
    shares = accuracy(attributes_heard(Listener.load(JUDGE), bands), [tune.attributes for tune in pool.tunes])
    assert min(shares.values()) >= 0.92 and shares["mean"] >= 0.97


def test_signal_processing_agrees_without_any_training(pool: Pool) -> None:
    found = measured_attributes(pool.bands)
    for name in MEASURED:
        right = np.mean([f[name] == tune.attributes[name] for f, tune in zip(found, pool.tunes, strict=True)])
        assert right > 0.8, name


def test_taste_measures_what_it_says(pool: Pool) -> None:
    from scipy.stats import spearmanr

    clear = pulse_clarity(pool.bands)
    assert spearmanr(clear, [tune.looseness for tune in pool.tunes]).statistic < -0.4
    bright = brightness(pool.bands)
    register = [ATTRIBUTES["register"].index(tune.register) for tune in pool.tunes]
    assert spearmanr(bright, register).statistic > 0.5


def test_the_trunk_reads_two_seconds_whatever_it_is_given() -> None:
    trunk = Trunk(8, 16).eval()
    bands = torch.randn(2, 100, 72)
    with torch.no_grad():
        assert trunk(bands).shape == (2, 16)
        assert torch.equal(trunk(bands), trunk(torch.cat([bands, bands], dim=1)))
        short = torch.cat([bands[:, :40], torch.full((2, 60, 72), float(np.log(1e-3)))], dim=1)
        assert torch.allclose(trunk(bands[:, :40]), trunk(short), atol=1e-5)


def test_adherence_counts_mentions() -> None:
    heard = [{name: values[0] for name, values in ATTRIBUTES.items()}] * 2
    asked = [{"tempo": "slow", "mode": "minor"}, {"tempo": "fast"}]
    found = adherence(heard, asked)
    assert (found["tempo"], found["mode"], found["mentions"]) == (0.5, 0.0, 3)
    assert found["all"] == pytest.approx(1 / 3, abs=1e-3)


def test_weights_are_what_their_records_say() -> None:
    nets = json.loads((JUDGE.parent / "README.json").read_text())
    for path in sorted(JUDGE.parent.glob("*.safetensors")):
        assert nets[path.stem]["sha256"] == file_sha256(path), path.name
        assert path.stat().st_size < 2_000_000
    assert {path.stem for path in JUDGE.parent.glob("*.safetensors")} == set(nets)
    base = json.loads((BASE / "README.json").read_text())
    assert base["weights_sha256"] == file_sha256(BASE / "model.safetensors")
    assert base["codec_sha256"] == file_sha256(BASE / "codec.safetensors")
    assert base["plan"]["steps"] == PretrainPlan().steps
    assert sum(file.stat().st_size for file in BASE.iterdir()) < 10_000_000
    assert EAR.is_file()
    with pytest.raises(UserError, match="train_musician"):
        Listener.load(BASE / "nothing.safetensors")
