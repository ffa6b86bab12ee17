"""CHAIR: words to objects, corpus rates, and the degenerate captioners."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmalign.benchmarks.metrics.chair import read_synonyms, singular
from mmalign.benchmarks.tasks.chair import Chair
from mmalign.errors import UserError
from mmalign.evals import score_outputs

SYNONYMS = """person, man, woman, child, people
dog, puppy
train
airplane, plane, jet
dining table, table, desk
hot dog
toilet
couch, sofa
knife
"""


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    synonyms, data = tmp_path / "synonyms.txt", tmp_path / "objects.jsonl"
    synonyms.write_text(SYNONYMS)
    records = [{"id": "a", "objects": ["dog", "person"]}, {"id": "b", "objects": ["couch"]}]
    data.write_text("\n".join(map(json.dumps, records)))
    return synonyms, data


@pytest.mark.parametrize(
    ("word", "expected"),
    [("dogs", "dog"), ("people", "person"), ("knives", "knife"), ("buses", "bus"), ("bus", "bus"),
     ("couches", "couch"), ("puppies", "puppy"), ("glass", "glass"), ("skis", "skis"), ("potatoes", "potato")],
)  # fmt: skip
def test_singular(word: str, expected: str) -> None:
    assert singular(word) == expected


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("Two men and a dog.", ["person", "dog"]),
        ("A hot dog on the dining tables", ["hot dog", "dining table"]),
        ("a baby dog near a passenger train", ["dog", "train"]),
        ("a passenger jet", ["airplane"]),
        ("the toilet seat is up", ["toilet"]),
        ("a dog and a dog", ["dog", "dog"]),
        ("nothing here", []),
    ],
)
def test_mentions(files: tuple[Path, Path], caption: str, expected: list[str]) -> None:
    assert read_synonyms(files[0]).mentions(caption) == expected


def test_corpus_rates(files: tuple[Path, Path], tmp_path: Path) -> None:
    task = Chair(data=files[1], synonyms=files[0])
    outputs = {"a": "A man walks his dog past a sofa.", "b": "A sofa and a table, a table indeed."}
    metrics = score_outputs(task, outputs, tmp_path / "out")["metrics"]
    assert metrics["chair_i"]["value"] == pytest.approx(3 / 6)
    assert metrics["chair_s"]["value"] == 1.0 and metrics["chair_s"]["method"] == "wilson"
    assert metrics["coverage"]["value"] == 1.0


def test_empty_and_oracle_captions(files: tuple[Path, Path], tmp_path: Path) -> None:
    task = Chair(data=files[1], synonyms=files[0])
    silent = score_outputs(task, {"a": "", "b": ""}, tmp_path / "silent")
    assert silent["metrics"]["chair_i"]["value"] is None and silent["metrics"]["coverage"]["value"] == 0.0
    assert silent["metrics"]["chair_s"]["value"] == 0.0 and silent["n_parsed"] == 0
    oracle = score_outputs(task, {"a": "a dog, a person", "b": "couch"}, tmp_path / "oracle")
    assert oracle["metrics"]["chair_i"]["value"] == 0.0 and oracle["metrics"]["coverage"]["value"] == 1.0


def test_without_synonyms_names_stand_for_themselves(files: tuple[Path, Path], tmp_path: Path) -> None:
    task = Chair(data=files[1])
    metrics = score_outputs(task, {"a": "dogs and a couch", "b": "a dog"}, tmp_path / "out")["metrics"]
    assert metrics["chair_i"]["value"] == pytest.approx(2 / 3)


def test_bad_input(files: tuple[Path, Path], tmp_path: Path) -> None:
    twice = tmp_path / "twice.txt"
    twice.write_text("dog, pup\nseal, pup\n")
    with pytest.raises(UserError, match=r'"pup" already belongs to "dog"'):
        read_synonyms(twice)
    with pytest.raises(UserError, match='no answer for "b"'):
        score_outputs(Chair(data=files[1]), {"a": "x"}, tmp_path / "out")
    with pytest.raises(UserError, match="needs its file"):
        Chair().rows()
