"""The files: torn lines, old schemas, unknown fields, numbers or null; composites and their intervals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmalign.data.jsonl import JsonlWriter, clean, read_jsonl, repair, write_json
from mmalign.data.results import read_results, read_samples
from mmalign.errors import UserError
from mmalign.stats.composite import f1, macro_f1, mean, ratio

OLD = {
    "task": {"name": "pope", "version": "1", "parser": "yesno.v1"},
    "n": 4,
    "metrics": {"accuracy": 0.5},
    "extra": 1,
}


def test_old_results_are_read_again_and_unknown_fields_kept(tmp_path: Path) -> None:
    write_json(tmp_path / "results.json", OLD)
    found = read_results(tmp_path)
    assert (found["task"], found["task_version"], found["parser"]) == ("pope", "1", "yesno.v1")
    assert found["metrics"]["accuracy"]["value"] == 0.5 and found["metrics"]["accuracy"]["n"] == 4
    assert found["extra"] == 1
    newer = {
        "schema": "mmalign.results/9",
        "metrics": {"a": {"value": 1, "later": "kept"}},
        "later": {"x": 1},
    }
    write_json(tmp_path / "results.json", newer)
    assert read_results(tmp_path)["metrics"]["a"]["later"] == "kept" and read_results(tmp_path)["later"] == {
        "x": 1
    }


def test_old_samples_are_read_again(tmp_path: Path) -> None:
    (tmp_path / "samples.jsonl").write_text('{"id": "a", "response": "yes", "mood": "good"}\n')
    sample = read_samples(tmp_path)[0]
    assert sample["output"] == "yes" and sample["mood"] == "good" and "schema" in sample


def test_a_string_where_a_number_belongs_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "results.json", {"schema": "mmalign.results/1", "metrics": {"a": {"value": "N/A"}}})
    with pytest.raises(UserError, match=r"metric a.value is 'N/A'; expected a number or null"):
        read_results(tmp_path)


def test_the_last_record_of_an_id_counts(tmp_path: Path) -> None:
    with JsonlWriter(tmp_path / "samples.jsonl") as writer:
        for output, index in (("old", 1), ("b", 0), ("new", 1)):
            writer.write({"schema": "s", "id": str(index), "index": index, "output": output})
    assert [sample["output"] for sample in read_samples(tmp_path)] == ["b", "new"]


@pytest.mark.parametrize(("tail", "kept"), [(b'{"a": 2', 1), (b'{"a": 2}', 2), (b"\xff\xfe", 1), (b"", 1)])
def test_torn_lines_are_cut_and_whole_ones_closed(tmp_path: Path, tail: bytes, kept: int) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\n' + tail)
    assert len(read_jsonl(path)) == kept
    repair(path)
    assert path.read_bytes().endswith(b"\n") and len(read_jsonl(path)) == kept
    with JsonlWriter(path) as writer:
        writer.write({"a": 3})
    assert read_jsonl(path)[-1] == {"a": 3} and len(read_jsonl(path)) == kept + 1


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n{"a": \n{"a": 3}\n')
    with pytest.raises(UserError, match=r"x.jsonl:2 is not valid JSON"):
        read_jsonl(path)


def test_json_holds_numbers_or_null() -> None:
    value = {
        "a": float("nan"),
        "b": np.float64(1.5),
        "c": np.arange(2),
        "d": (1, float("inf")),
        "e": np.int64(3),
    }
    assert json.dumps(clean(value)) == '{"a": null, "b": 1.5, "c": [0, 1], "d": [1, null], "e": 3}'


def sample(k: int, cluster: int, **scores: Any) -> dict[str, Any]:
    return {"id": str(k), "cluster": str(cluster), "scores": scores}


def test_wilson_for_independent_rates_bootstrap_for_clusters() -> None:
    alone = [sample(k, k, hit=k % 2) for k in range(50)]
    assert mean("hit").interval(alone).method == "wilson"
    together = [sample(k, k // 2, hit=k % 2) for k in range(50)]
    assert mean("hit").interval(together).method == "cluster bootstrap (25 clusters)"
    never = [sample(k, k // 2, hit=0, shown=3) for k in range(50)]
    edge = ratio("hit", "shown", False).interval(never)
    assert edge.value == 0.0 and edge.ci_low == 0.0 and edge.ci_high > 0.05


def test_samples_with_errors_or_missing_scores_are_left_out() -> None:
    rows = [sample(0, 0, hit=1), {**sample(1, 1, hit=0), "error": "x"}, sample(2, 2)]
    found = mean("hit").interval(rows)
    assert (found.value, found.n) == (1.0, 1)
    assert mean("hit").interval([]).value is None


def test_f1_of_stating_nothing_is_zero_and_macro_averages() -> None:
    rows = [sample(k, k, t=0, f=0, h=0, w=2, t2=1, f2=1, h2=1, w2=1) for k in range(3)]
    assert f1("t", "f", "h", "w").interval(rows).value == 0.0
    assert f1("t2", "f2", "h2", "w2").interval(rows).value == pytest.approx(2 / 3)
    both = macro_f1([("t", "f", "h", "w"), ("t2", "f2", "h2", "w2")])
    assert both.interval(rows).value == pytest.approx(1 / 3)


def test_paired_difference_uses_shared_ids_only() -> None:
    a = [sample(k, k, hit=0) for k in range(20)]
    b = [sample(k, k, hit=1) for k in range(10, 30)]
    found = mean("hit").paired(a, b)
    assert (found.value, found.n) == (1.0, 10)
