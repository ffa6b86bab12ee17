"""Answers that are pictures, sounds and clips: written by the evaluation, shown by the report, nothing loaded."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from mmalign.evals import score_outputs
from mmalign.evals.outputs import plain_output
from mmalign.report import build_report
from mmalign.report.works import spectrogram_uri
from mmalign.stats.intervals import wilson
from mmalign.types import Row


@dataclass(frozen=True)
class Tone:
    """A sound that writes itself."""

    hertz: float
    rate: int = 16000

    def save_as(self, stem: Path) -> Path:
        time = np.arange(self.rate) / self.rate
        path = stem.with_name(stem.name + ".wav")
        wavfile.write(path, self.rate, (20000 * np.sin(2 * np.pi * self.hertz * time)).astype(np.int16))
        return path


@dataclass(frozen=True)
class Blink:
    """A clip of two frames."""

    def save_as(self, stem: Path) -> Path:
        path = stem.with_name(stem.name + ".gif")
        frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=200, loop=0)
        return path


class Made:
    """Six prompts whose answers are no text."""

    name = "made"
    version = "1"
    parser = "none.v1"

    def rows(self) -> list[Row]:
        return [Row(id=f"m{k}", prompt=f"a <b>thing</b> {k}") for k in range(6)]

    def score(self, row: Row, output: Any) -> Mapping[str, Any]:
        right = float(not isinstance(output, Tone) or output.hertz > 300)
        return {"parsed": None, "parse_ok": True, "scores": {"right": right, "f1": 0.5}}

    def metrics(self, samples: Sequence[Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
        right = sum(int(sample["scores"]["right"]) for sample in samples)
        return {"right": {**wilson(right, len(samples)).as_dict(), "higher_is_better": True}}


def answers(hertz: float) -> dict[str, Any]:
    squares = [Image.fromarray(np.full((32, 32, 3), 60 * k, dtype=np.uint8)) for k in range(2)]
    made: list[Any] = [*squares, Tone(hertz), Tone(2 * hertz), Blink(), Blink()]
    return {f"m{k}": answer for k, answer in enumerate(made)}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("works") / "run"
    for arm, hertz in (("sft", 200.0), ("grpo", 440.0)):
        score_outputs(Made(), answers(hertz), folder / "evals" / arm / "made@T1", model_info={"id": arm})
    return folder


def test_answers_become_files_with_their_hash(run: Path) -> None:
    found = sorted(path.suffix for path in (run / "evals" / "sft" / "made@T1" / "outputs").iterdir())
    assert found == [".gif", ".gif", ".png", ".png", ".wav", ".wav"]


def test_the_page_shows_pictures_plays_sounds_and_moves_clips(run: Path) -> None:
    page = build_report(run).read_text(encoding="utf-8")
    assert "What it makes" in page and "What it says" not in page
    assert page.count('<audio controls src="data:audio/wav;base64,') == 4  # two sounds before and after
    assert page.count("data:image/gif;base64,") == 4
    assert page.count('<article class="work">') == 6
    assert "a &lt;b&gt;thing&lt;/b&gt; 0" in page and "<b>thing</b>" not in page
    assert "Right 0.00" in page and "Right 1.00" in page


def test_a_spectrogram_shows_where_the_tone_lies(tmp_path: Path) -> None:
    path = Tone(6000.0).save_as(tmp_path / "tone")
    uri = spectrogram_uri(path)
    assert uri is not None
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))
    dark = picture.mean(1).argmin() / len(picture)
    assert 0.2 < dark < 0.3  # 6 of 8 kHz from the bottom
    (tmp_path / "no.wav").write_bytes(b"nothing")
    assert spectrogram_uri(tmp_path / "no.wav") is None


def test_an_answer_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="no save_as"):
        plain_output(object(), "x", tmp_path)
