"""POPE: always-yes, always-no, empty and oracle rows; official files; parsers that change the score."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmalign.benchmarks.tasks.pope import Pope
from mmalign.benchmarks.tasks.scenes import scenes_pope_adversarial, scenes_pope_random
from mmalign.errors import UserError
from mmalign.evals import load_task, rescore, score_outputs


def values(results: dict) -> dict:
    return {name: entry["value"] for name, entry in results["metrics"].items()}


ALWAYS_YES = {
    "accuracy": 0.5,
    "precision": 0.5,
    "recall": 1.0,
    "f1": 2 / 3,
    "yes_share": 1.0,
    "unparsed": 0.0,
}
ALWAYS_NO = {"accuracy": 0.5, "precision": None, "recall": 0.0, "f1": 0.0, "yes_share": 0.0, "unparsed": 0.0}
EMPTY = {"accuracy": 0.0, "precision": None, "recall": 0.0, "f1": 0.0, "yes_share": 0.0, "unparsed": 1.0}
ORACLE = {"accuracy": 1.0, "precision": 1.0, "recall": 1.0, "f1": 1.0, "yes_share": 0.5, "unparsed": 0.0}


@pytest.mark.parametrize(
    ("answer", "expected"), [("yes .", ALWAYS_YES), ("no .", ALWAYS_NO), ("", EMPTY), (None, ORACLE)]
)
def test_constant_and_oracle_answers(tmp_path: Path, answer: str | None, expected: dict) -> None:
    task = scenes_pope_random(n=40)
    outputs = {row.id: row.meta["label"] if answer is None else answer for row in task.rows()}
    results = score_outputs(task, outputs, tmp_path)
    assert values(results) == pytest.approx(expected)
    assert results["n"] == 40 and results["n_parsed"] == (0 if answer == "" else 40)
    assert results["parser"] == "yesno.v1"


def test_two_questions_of_one_scene_are_one_cluster(tmp_path: Path) -> None:
    task = scenes_pope_adversarial(n=20)
    results = score_outputs(task, {row.id: "yes" for row in task.rows()}, tmp_path)
    assert results["metrics"]["f1"]["method"] == "cluster bootstrap (10 clusters)"


def write_pope(path: Path, n: int, *, array: bool = False) -> None:
    records = [
        {
            "question_id": k,
            "image": f"{k // 6}.jpg",
            "text": "Is there a dog?",
            "label": "yes" if k % 2 else "no",
        }
        for k in range(n)
    ]
    text = json.dumps(records) if array else "\n".join(map(json.dumps, records))
    path.write_text(text)


@pytest.mark.parametrize("array", [False, True])
def test_official_formats_and_exact_always_yes(tmp_path: Path, array: bool) -> None:
    path = tmp_path / "coco_pope_random.json"
    write_pope(path, 3000, array=array)
    task = load_task("pope", {"data": str(path)})
    results = score_outputs(task, {row.id: "Yes" for row in task.rows()}, tmp_path / "out")
    assert values(results) == pytest.approx(ALWAYS_YES)
    assert results["data"]["n_total"] == 3000 and results["data"]["source"] == "coco_pope_random.json"


def test_a_copy_with_2910_questions_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "coco_pope_random.json"
    write_pope(path, 2910)
    with pytest.raises(UserError, match=r"2910 questions instead of 3000"):
        Pope(data=path).rows()
    assert len(Pope(data=path, counts="any").rows()) == 2910


def test_bad_files_get_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    with pytest.raises(UserError, match="needs its file"):
        Pope().rows()
    with pytest.raises(UserError, match="no such file"):
        Pope(data=path).rows()
    path.write_text('{"text": "?", "label": "maybe", "image": "a"}')
    with pytest.raises(UserError, match=r'label is "maybe"; expected yes or no'):
        Pope(data=path).rows()
    path.write_text('{"txt": "?", "label": "yes", "image": "a"}')
    with pytest.raises(UserError, match=r'has no "text" \(did you mean "txt"\?\)'):
        Pope(data=path).rows()
    path.write_text('{"text": "?", "label": "yes", "image": "a.jpg"}')
    with pytest.raises(UserError, match="does not exist; give --image_dir"):
        Pope(data=path, image_dir=tmp_path).rows()


def test_another_parser_reads_the_stored_answers_again(tmp_path: Path) -> None:
    task = scenes_pope_random(n=10)
    score_outputs(task, {row.id: "I cannot tell." for row in task.rows()}, tmp_path / "a")
    again = rescore(tmp_path / "a", scenes_pope_random(n=10, parser="pope-reference"), tmp_path / "b")
    assert values(again)["yes_share"] == 1.0 and again["parser"] == "pope-reference.v1"


def test_unknown_option_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r'has no option "splt" \(did you mean "split"\?\)'):
        load_task("scenes-captions", {"splt": "test"})
