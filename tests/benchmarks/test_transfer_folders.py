"""Readers of the official folders, on tiny folders of real picture files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmalign.benchmarks.transfer.fgvc import FGVC, SETS
from mmalign.benchmarks.transfer.vtab_1k import TASKS, VTAB1k
from mmalign.errors import UserError


def picture(file: Path, tone: int, size: tuple[int, int] = (40, 30)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0]), tone, dtype=np.uint8), "L").save(file)


@pytest.fixture
def vtab(tmp_path: Path) -> Path:
    home = tmp_path / "eurosat"
    for split, count in (("train800", 4), ("val200", 2), ("test", 3)):
        lines = []
        for k in range(count):
            name = f"images/{split}/a {k}.png"
            picture(home / name, 10 * k)
            lines.append(f"{name} {k % 10}")
        (home / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def eurosat(folder: Path, split: str) -> list[tuple[float, int]]:
    suite = VTAB1k(str(folder), size=8)
    task = next(task for task in suite.tasks() if task.name == "eurosat")
    data = suite.data(task, split)
    return [(round(float(x.mean() * 255)), int(y)) for x, y in (data[k] for k in range(len(data)))]


def test_vtab_reads_lists(vtab: Path) -> None:
    assert eurosat(vtab, "train") == [(0, 0), (10, 1), (20, 2), (30, 3)]
    assert len(eurosat(vtab, "val")) == 2
    assert len(eurosat(vtab, "test")) == 3


def test_vtab_has_the_official_tasks() -> None:
    assert [len(members) for members in TASKS.values()] == [7, 4, 8]
    assert sum(sum(members.values()) for members in TASKS.values()) == 940


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda home: (home / "test.txt").unlink(), "test.txt is missing"),
        (lambda home: (home / "test.txt").write_text("\n"), "is empty"),
        (
            lambda home: (home / "test.txt").write_text("images/test/a 0.png\n"),
            "test.txt:1: a line is a path",
        ),
        (
            lambda home: (home / "test.txt").write_text("images/test/a 0.png 10\n"),
            "label 10, but the task has 10",
        ),
        (lambda home: (home / "images/test/a 1.png").unlink(), "no such picture"),
        (lambda home: (home / "images/test/a 1.png").write_text("x"), "cannot be read as a picture"),
        (lambda home: home.rename(home.parent / "euro_sat"), 'no folder eurosat .did you mean "euro_sat"'),
    ],
)
def test_vtab_errors(vtab: Path, break_it: object, says: str) -> None:
    break_it(vtab / "eurosat")  # type: ignore[operator]
    with pytest.raises(UserError, match=says):
        eurosat(vtab, "test")


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no folder"):
        VTAB1k(str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="is no folder"):
        FGVC(str(tmp_path / "nothing"))


@pytest.fixture
def cars(tmp_path: Path) -> Path:
    home, classes = tmp_path / "StanfordCars", SETS["stanford_cars"][0]
    maps: dict[str, dict[str, int]] = {"train": {}, "test": {}}
    for k in range(classes * 2):
        maps["train"][f"cars_train/{k:03d}.png"] = 1000 - k % classes
    maps["test"] = {"cars_test/0.png": 1000, "cars_test/1.png": 1000 - classes + 1}
    for split, items in maps.items():
        for name in items:
            picture(home / name, 100, (4, 4))
        (home / f"{split}.json").write_text(json.dumps(items))
    return tmp_path


def test_fgvc_numbers_classes_once_and_holds_out_a_tenth(cars: Path) -> None:
    suite = FGVC(str(cars), size=4)
    task = next(task for task in suite.tasks() if task.name == "stanford_cars")
    splits = {split: suite.data(task, split).items for split in ("train", "val", "test")}
    assert (len(splits["train"]), len(splits["val"])) == (353, 39)
    assert not {n for n, _ in splits["train"]} & {n for n, _ in splits["val"]}
    assert splits["val"] == FGVC(str(cars)).data(task, "val").items
    assert splits["val"] != FGVC(str(cars), seed=1).data(task, "val").items
    assert splits["test"] == (("cars_test/0.png", 195), ("cars_test/1.png", 0))


def test_fgvc_takes_the_public_validation_split(cars: Path) -> None:
    home = cars / "StanfordCars"
    (home / "val.json").write_text(json.dumps({"cars_test/0.png": 1000}))
    suite = FGVC(str(cars), size=4)
    task = next(task for task in suite.tasks() if task.name == "stanford_cars")
    assert suite.data(task, "val").items == (("cars_test/0.png", 195),)
    assert len(suite.data(task, "train")) == 392


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("test.json", '{"cars_test/0.png": 3}', "class 3 of cars_test/0.png is not among"),
        ("test.json", "[1]", "an object from a picture's file"),
        ("train.json", "{", "no JSON"),
        (
            "train.json",
            '{"cars_test/0.png": 1, "cars_test/1.png": 2}',
            "classes in training, stanford_cars has 196",
        ),
    ],
)
def test_fgvc_errors(cars: Path, file: str, text: str, says: str) -> None:
    (cars / "StanfordCars" / file).write_text(text)
    suite = FGVC(str(cars))
    task = next(task for task in suite.tasks() if task.name == "stanford_cars")
    with pytest.raises(UserError, match=says):
        suite.data(task, "test")
