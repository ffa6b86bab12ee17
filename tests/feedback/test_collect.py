"""The collector: labels, cache, resume after a kill at any moment, and the shuffled control."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from mmalign.errors import UserError
from mmalign.feedback.cache import CachedJudge
from mmalign.feedback.collect import collect, read_feedback, shuffle_labels
from mmalign.feedback.facts import Fact
from mmalign.feedback.labels import JudgedFact, type_labels
from mmalign.feedback.quality import label_counts
from mmalign.types import Row
from tests.feedback.build import CountingJudge, WordExtractor, row

ROWS = [
    row("a#0", "o:cat a:red .", "r:left .", false=["a:red"]),
    row("a#1", "o:cat .", "o:dog ? .", false=["o:dog"]),
    row("b#0", "o:cat .", "nothing .", color=9, false=["o:cat"]),
]


def test_label_rule() -> None:
    facts = [JudgedFact("object", "a", 1), JudgedFact("object", "b", -1), JudgedFact("attribute", "c", 0)]
    assert type_labels(facts) == {"object": -1, "attribute": 0, "relation": 0}
    assert type_labels(facts[:1]) == {"object": 1, "attribute": 0, "relation": 0}
    assert type_labels([*facts[:1], JudgedFact("object", "d", 0)])["object"] == 1


def test_collect_labels_writes_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "fb" / "train.jsonl"
    rows = collect(ROWS, CountingJudge(), WordExtractor(), path, tmp_path / "cache")
    labels = [[dict(s.labels) for s in r.segments] for r in rows]
    assert labels[0] == [
        {"object": 1, "attribute": -1, "relation": 0},
        {"object": 0, "attribute": 0, "relation": 1},
    ]
    assert labels[2][0]["object"] == -1 and set(labels[2][1].values()) == {0}
    back = read_feedback(path)
    for one, two in zip(rows, back, strict=True):
        assert (one.id, one.completion, one.steps, one.segments) == (
            two.id,
            two.completion,
            two.steps,
            two.segments,
        )
        assert Path(two.media[0]).is_file()
    assert len(list((path.parent / "media").iterdir())) == 2
    record = json.loads(path.read_text().splitlines()[0])
    assert record["judge"]["name"] == "counting"
    assert record["segments"][0]["facts"][1] == {"type": "attribute", "text": "a:red", "label": -1}
    assert label_counts(rows)["object"] == {"false": 2, "none": 2, "true": 2, "unlabelled": 0}


def test_nothing_is_asked_twice(tmp_path: Path) -> None:
    judge = CountingJudge()
    twice = row("c", "o:cat .", "o:cat o:cat a:red .")
    collect([twice, row("d", "o:cat .")], judge, WordExtractor(), tmp_path / "1.jsonl", tmp_path / "cache")
    assert sorted(judge.asked) == ["a:red", "o:cat"]
    collect([twice], judge, WordExtractor(), tmp_path / "2.jsonl", tmp_path / "cache")
    assert len(judge.asked) == 2
    other = row("e", "o:cat .", color=77)
    collect([other], judge, WordExtractor(), tmp_path / "3.jsonl", tmp_path / "cache")
    assert judge.asked[2:] == ["o:cat"], "another picture is another question"
    judge.version = "2"  # type: ignore[attr-defined]
    collect([other], judge, WordExtractor(), tmp_path / "4.jsonl", tmp_path / "cache")
    assert len(judge.asked) == 4, "another version of the judge is asked anew"


def test_cache_counts_hits_and_repairs_a_torn_line(tmp_path: Path) -> None:
    facts = [
        Fact("object", ("cat",), "o:cat"),
        Fact("object", ("dog",), "o:dog"),
        Fact("object", ("cat",), "o:cat"),
    ]
    judge = CachedJudge(CountingJudge(), tmp_path)
    assert judge.verify(ROWS[1], facts) == [1, -1, 1]
    assert (judge.asked, judge.hits) == (2, 1)
    judge.close()
    file = tmp_path / "answers.jsonl"
    file.write_bytes(file.read_bytes()[:-9])
    again = CachedJudge(CountingJudge(), tmp_path)
    assert len(again.cache) == 1
    assert again.verify(ROWS[1], facts) == [1, -1, 1]
    assert (again.asked, again.hits) == (1, 2)
    again.close()


def test_resume_after_a_torn_record(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole" / "f.jsonl", tmp_path / "cut" / "f.jsonl"
    collect(ROWS, CountingJudge(), WordExtractor(), whole, tmp_path / "c1")
    cut.parent.mkdir()
    for size in range(0, whole.stat().st_size, 97):
        cut.write_bytes(whole.read_bytes()[:size])
        rows = collect(ROWS, CountingJudge(), WordExtractor(), cut, tmp_path / f"c{size}")
        assert cut.read_bytes() == whole.read_bytes()
        assert len(rows) == len(ROWS)
    with pytest.raises(UserError, match="other answers"):
        collect(ROWS[1:], CountingJudge(), WordExtractor(), whole, tmp_path / "c1")


SCRIPT = """
import sys, time
from pathlib import Path
from mmalign.feedback.collect import collect
from tests.feedback.build import CountingJudge, WordExtractor, row

class Slow(CountingJudge):
    def verify(self, row, facts):
        time.sleep(0.01)
        return super().verify(row, facts)

rows = [row(f"r{k}", f"o:x{k} a:y{k % 7} .", "r:z .", color=k % 5, false=["a:y3"]) for k in range(60)]
collect(rows, Slow(), WordExtractor(), Path(sys.argv[1]) / "f.jsonl", Path(sys.argv[1]) / "cache")
"""


def start(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder)], cwd=Path(__file__).parents[2])


def test_kill_dash_nine_and_the_same_command_again(tmp_path: Path) -> None:
    assert start(tmp_path / "whole").wait() == 0
    target = tmp_path / "killed" / "f.jsonl"
    for least in (1, 300, 9000):
        process = start(tmp_path / "killed")
        while process.poll() is None and not (target.exists() and target.stat().st_size >= least):
            time.sleep(0.005)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert start(tmp_path / "killed").wait() == 0
    assert target.read_bytes() == (tmp_path / "whole" / "f.jsonl").read_bytes()
    assert not list(tmp_path.rglob("*.tmp"))


def applicable(rows: list[Row], kind: str) -> list[int]:
    return [s.labels[kind] for r in rows for s in r.segments if s.labels[kind]]


def test_shuffled_labels_keep_counts_and_applicability(tmp_path: Path) -> None:
    rows = [
        row(f"r{k}", "o:x .", "o:y a:z .", color=k, false=["o:x"] if k % 3 else ["a:z"]) for k in range(40)
    ]
    path = tmp_path / "train.jsonl"
    shuffled = collect(rows, CountingJudge(), WordExtractor(), path, tmp_path / "c", shuffle_labels_seed=7)
    true = read_feedback(tmp_path / "train.unshuffled.jsonl")
    assert [r.segments for r in read_feedback(path)] == [r.segments for r in shuffled]
    for kind in ("object", "attribute"):
        assert Counter(applicable(true, kind)) == Counter(applicable(shuffled, kind))
        assert applicable(true, kind) != applicable(shuffled, kind)
    zeros = [[k for s in r.segments for k, v in s.labels.items() if v == 0] for r in true]
    assert zeros == [[k for s in r.segments for k, v in s.labels.items() if v == 0] for r in shuffled]
    assert [r.segments for r in shuffle_labels(true, 7)] == [r.segments for r in shuffled]
    again = collect(rows, CountingJudge(), WordExtractor(), path, tmp_path / "c", shuffle_labels_seed=7)
    assert [r.segments for r in again] == [r.segments for r in shuffled]


def test_a_missing_or_wrong_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such feedback file"):
        read_feedback(tmp_path / "x.jsonl")
    (tmp_path / "y.jsonl").write_text('{"id": "a"}\n')
    with pytest.raises(UserError, match=r"y\.jsonl:1.*'media'"):
        read_feedback(tmp_path / "y.jsonl")
