"""``mmalign data check``: every kind of trouble is found where it is and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmalign.cli.main import main
from mmalign.data.lengths import length_bias, summary
from mmalign.data.report import check_file


def write(file: Path, *records: dict[str, Any]) -> Path:
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return file


def clean_pairs(n: int) -> list[dict[str, Any]]:
    """Pairs without trouble: other words in each, the longer answer as often chosen as not."""
    rng = np.random.default_rng(0)
    pairs = []
    for k in range(n):
        one, two = (f"answer {k} {side} " + "word " * int(rng.integers(1, 9)) for side in ("good", "bad"))
        pairs.append({"prompt": f"question number {k}", "chosen": one, "rejected": two})
    return pairs


def found(file: Path, *against: Path) -> dict[str, tuple[str, int, str]]:
    report = check_file(file, against)
    return {finding.kind: (finding.level, finding.count, finding.says) for finding in report.findings}


def test_a_clean_file_has_no_findings(tmp_path: Path) -> None:
    report = check_file(write(tmp_path / "a.jsonl", *clean_pairs(60)))
    assert report.findings == () and report.ok and dict(report.kinds) == {"pairs": 60}
    assert report.mapping == "TRL columns: prompt → prompt; chosen → chosen; rejected → rejected"
    assert report.lengths["chosen"]["n"] == 60


def test_trouble_within_pairs(tmp_path: Path) -> None:
    pair = {"prompt": "q", "chosen": "yes it is", "rejected": "no"}
    file = write(
        tmp_path / "a.jsonl",
        pair,
        {"prompt": "q", "chosen": "No!", "rejected": "Yes it is."},
        {"prompt": "r", "chosen": "same", "rejected": "same"},
        {"prompt": "s", "chosen": "Same.", "rejected": "same"},
        {"prompt": "t", "chosen": "alone"},
        {"prompt": "u", "completion": " "},
    )
    kinds = found(file)
    assert kinds["contradiction"] == ("error", 1, "the same pair the other way round: row 2 = row 1")
    assert kinds["identical pair"][:2] == ("error", 1) and "row 3" in kinds["identical pair"][2]
    assert (
        kinds["nearly identical pair"][:2] == ("warning", 1) and "row 4" in kinds["nearly identical pair"][2]
    )
    assert kinds["half a pair"][:2] == ("error", 1) and "row 5" in kinds["half a pair"][2]
    assert "a.jsonl: row 6: the answer is empty" in kinds["unreadable row"][2]


def test_exact_and_near_duplicates(tmp_path: Path) -> None:
    one, two = clean_pairs(2)
    shouted = {**one, "prompt": one["prompt"].upper() + " ?", "chosen": one["chosen"].replace(" ", "  ")}
    kinds = found(write(tmp_path / "a.jsonl", one, two, one, shouted))
    assert kinds["exact duplicate"] == ("warning", 1, "row 3 = row 1")
    assert kinds["near duplicate"][1] == 1 and "row 4 = row 1" in kinds["near duplicate"][2]
    assert "contradiction" not in kinds
    assert found(write(tmp_path / "b.jsonl", {**one, "id": "x"}, {**two, "id": "x"}))["id twice"][:2] == (
        "error",
        1,
    )


def test_prompts_of_another_split(tmp_path: Path) -> None:
    train = clean_pairs(6)
    a = write(tmp_path / "train.jsonl", *train)
    b = write(tmp_path / "test.jsonl", {"prompt": "Question number 4?"}, {"prompt": "question number 40"})
    kinds = found(a, b)
    assert set(kinds) == {"prompt leak"} and kinds["prompt leak"][:2] == ("error", 1)
    assert kinds["prompt leak"][2].endswith("test.jsonl are in this file: row 5 = row 1")
    assert found(a, write(tmp_path / "val.jsonl", {"prompt": "question number 40"})) == {}


def test_media_count_by_content(tmp_path: Path) -> None:
    """The same question about another picture is no leak; the same picture under another name is shared."""
    for name, colour in (("a", 1), ("b", 2), ("c", 1)):
        Image.new("RGB", (4, 4), (colour, 0, 0)).save(tmp_path / f"{name}.png")
    asked = {"prompt": "what?", "completion": "red"}
    a = write(tmp_path / "train.jsonl", {**asked, "image": "a.png"}, {**asked, "image": "b.png"})
    b = write(tmp_path / "test.jsonl", {"prompt": "how many?", "image": "c.png"})
    assert set(found(a)) == set()
    assert found(a, b)["shared media"][:2] == ("warning", 1) and set(found(a, b)) == {"shared media"}
    c = write(tmp_path / "val.jsonl", {"prompt": "What?", "image": "c.png"})
    assert found(a, c)["prompt leak"][1] == 1
    assert dict(check_file(a).media) == {"shown": 2, "distinct": 2}


def test_missing_and_unreadable_media(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "good.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:60])
    (tmp_path / "empty.wav").write_bytes(b"")
    rows = [{"prompt": f"p {k}", "image": name} for k, name in enumerate(("good.png", "cut.png", "gone.png"))]
    kinds = found(write(tmp_path / "a.jsonl", *rows, {"prompt": "p", "audio": "empty.wav"}))
    assert kinds["unreadable media"][1] == 2
    assert "row 2: " in kinds["unreadable media"][2] and "empty.wav is empty" in kinds["unreadable media"][2]
    assert kinds["unreadable row"][1] == 1 and "gone.png does not exist" in kinds["unreadable row"][2]


def test_length_bias_against_a_plain_loop(tmp_path: Path) -> None:
    biased = [
        {"prompt": f"q {k}", "chosen": "w " * (6 + k % 5) + str(k), "rejected": "w " * (3 + k % 2) + str(k)}
        for k in range(50)
    ]
    report = check_file(write(tmp_path / "a.jsonl", *biased))
    differences = [len(row["chosen"].split()) - len(row["rejected"].split()) for row in biased]
    mean = report.length_bias["difference"]
    assert mean["value"] == pytest.approx(sum(differences) / 50)
    assert mean["ci_low"] < mean["value"] < mean["ci_high"] and report.length_bias["biased"]
    assert report.length_bias["chosen_longer"]["value"] == sum(d > 0 for d in differences) / sum(
        d != 0 for d in differences
    )
    assert [finding.kind for finding in report.findings] == ["length bias"] and report.ok
    balanced = length_bias([3, 4, 5, 6], [4, 3, 6, 5])
    assert not balanced["biased"] and balanced["chosen_longer"]["value"] == 0.5
    ties = length_bias([2, 2], [2, 2])
    assert ties["chosen_longer"]["n"] == 0 and not ties["biased"]


def test_the_two_intervals_agree_where_they_meet() -> None:
    rng = np.random.default_rng(1)
    chosen, rejected = rng.integers(1, 40, 5000), rng.integers(1, 40, 5000)
    small = length_bias(chosen[:4999].tolist(), rejected[:4999].tolist())["difference"]
    large = length_bias(chosen.tolist(), rejected.tolist())["difference"]
    assert (small["method"], large["method"]) == (small["method"], "t") and small["method"] != "t"
    for end in ("ci_low", "ci_high"):
        assert small[end] == pytest.approx(large[end], abs=0.05)


def test_summary_golden() -> None:
    assert summary([]) == {"n": 0}
    figures = summary([1, 2, 3, 4, 10])
    assert figures == pytest.approx({"n": 5, "mean": 4.0, "median": 3.0, "p05": 1.2, "p95": 8.8, "max": 10})


def test_label_balance(tmp_path: Path) -> None:
    rows = [{"prompt": f"q {k}", "completion": f"a {k}", "label": k < 3} for k in range(10)]
    report = check_file(write(tmp_path / "a.jsonl", *rows))
    assert report.labels["True"]["n"] == 3 and report.labels["True"]["share"]["value"] == 0.3
    assert report.findings == ()
    one_sided = found(write(tmp_path / "b.jsonl", *rows[:3]))
    assert one_sided["label balance"] == ("warning", 3, "every label is True")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write(tmp_path / "good.jsonl", *clean_pairs(8))
    assert main(["data", "check", str(good)]) == 0
    shown = capsys.readouterr().out
    assert "8 pairs" in shown and "chosen minus rejected" in shown and "nothing to mend" in shown
    bad = write(tmp_path / "bad.jsonl", {"prompt": "q", "chosen": "[x] a", "rejected": "[x] a"})
    assert main(["data", "check", str(bad), "--against", str(good), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False and report["findings"][0]["kind"] == "identical pair"
    with pytest.raises(SystemExit) as stop:
        main(["data", "check", str(tmp_path / "goood.jsonl")])
    assert stop.value.code == 2 and 'did you mean "good.jsonl"' in capsys.readouterr().err
