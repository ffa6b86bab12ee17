"""The tunes task: real pieces score near the top, wrong ones do not, and its numbers add up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmalign.benchmarks.tasks.tunes import Tunes
from mmalign.data.audio import Clip
from mmalign.data.results import read_samples
from mmalign.errors import UserError
from mmalign.evals.run import score_outputs
from mmalign.worlds.tunes.reference import Reference
from mmalign.worlds.tunes.synth import render
from mmalign.worlds.tunes.tune import ATTRIBUTES, Tune


@pytest.fixture(scope="module")
def task() -> Tunes:
    return Tunes(split="validation", n=24, answers=2)


@pytest.fixture(scope="module")
def outputs(task: Tunes) -> dict[str, Clip]:
    """Every caption answered by its own piece and by the same with other details."""
    tunes = [(row.id, Tune.from_dict(row.meta["tune"])) for row in task.rows()]
    return {name: render(replace(tune, id=tune.id + place % 2)) for place, (name, tune) in enumerate(tunes)}


@pytest.fixture(scope="module")
def results(
    task: Tunes, outputs: dict[str, Clip], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("tunes")
    return folder, score_outputs(task, outputs, folder)


def test_every_caption_stands_there_as_often_as_asked(task: Tunes) -> None:
    rows = task.rows()
    assert len(rows) == 48 and len({row.id for row in rows}) == 48
    assert len({row.meta["cluster"] for row in rows}) == 24
    assert all(row.completion is None for row in rows)
    assert rows[0].prompt == rows[1].prompt != rows[2].prompt
    with pytest.raises(UserError, match="at least one row"):
        Tunes(n=0)


def test_real_pieces_adhere_and_are_near_the_floor(results: tuple[Path, Any]) -> None:
    metrics = results[1]["metrics"]
    assert metrics["adherence/all"]["value"] > 0.97
    assert metrics["adherence_measured/all"]["value"] > 0.9
    assert metrics["mos"]["value"] > 4 and metrics["silent"]["value"] == 0
    assert metrics["fad"]["n"] == 48
    assert metrics["fad"]["value"] < 3 * metrics["fad_floor"]["value"]
    assert metrics["diversity"]["value"] > 0


def test_intervals_go_by_caption(results: tuple[Path, Any]) -> None:
    metrics = results[1]["metrics"]
    assert "cluster" in metrics["mos"]["method"]
    assert metrics["mos"]["ci_low"] < metrics["mos"]["value"] < metrics["mos"]["ci_high"]


def test_outputs_are_sound_files(results: tuple[Path, Any]) -> None:
    samples = list(read_samples(results[0] / "samples.jsonl"))
    assert all(sample["output"]["file"].endswith(".wav") for sample in samples)
    assert (results[0] / samples[0]["output"]["file"]).is_file()
    asked = sum(sample["scores"][f"asked_{name}"] for sample in samples for name in ATTRIBUTES)
    hits = sum(sample["scores"][f"hit_{name}"] for sample in samples for name in ATTRIBUTES)
    assert results[1]["metrics"]["adherence/all"]["value"] == pytest.approx(hits / asked)


def test_pieces_of_other_captions_miss_and_noise_is_far_from_music(
    task: Tunes, outputs: dict[str, Clip], tmp_path: Path
) -> None:
    names = [row.id for row in task.rows()]
    shifted = dict(zip(names, [outputs[name] for name in [*names[2:], *names[:2]]], strict=True))
    wrong = score_outputs(task, shifted, tmp_path / "shifted")["metrics"]
    assert wrong["adherence/all"]["value"] < 0.7
    rng = np.random.default_rng(0)
    noise = {name: Clip(rng.normal(0, 0.1, 32_000).astype(np.float32), 16_000) for name in names}
    bad = score_outputs(task, noise, tmp_path / "noise")["metrics"]
    assert bad["fad"]["value"] > 10 * wrong["fad"]["value"]
    assert bad["mos"]["value"] < wrong["mos"]["value"]
    assert bad["diversity"]["value"] < wrong["diversity"]["value"]


def test_silence_is_seen(task: Tunes) -> None:
    row = task.rows()[0]
    scored = task.score(row, Clip(np.zeros(32_000, dtype=np.float32), 16_000))
    assert scored["scores"]["silent"] == 1


def test_every_split_with_captions_has_its_reference() -> None:
    for split in ("validation", "test"):
        reference = Reference.load(split)
        assert reference.cov.shape == (len(reference.mean),) * 2
        assert np.diag(reference.cov).max() < 1.1
    with pytest.raises(UserError, match="no reference"):
        Reference.load("train")
