"""The loop: resume, batch size, isolation of faults, cache, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmalign.errors import UserError
from mmalign.evals import evaluate, read_results, read_samples, rebuild


def run(adapter: Any, task: Any, folder: Path, **changes: Any) -> dict[str, Any]:
    settings = {"seed": 3, "temperature": 1.0, "batch_size": 4, "max_steps": 8, "progress": False, **changes}
    return evaluate(adapter, None, task, folder, model_info={"id": "m"}, **settings)


def test_results_have_the_schema(tmp_path: Path, scripted: Any, task: Any) -> None:
    results = run(scripted(), task, tmp_path)
    assert results["schema"] == "mmalign.results/1" and results["parser"] == "word.v1"
    assert (results["n"], results["n_parsed"], results["n_error"], results["seeds"]) == (10, 10, 0, [3])
    assert len(results["data"]["sha256"]) == 64 and results["data"]["n_total"] == 10
    entry = results["metrics"]["yes"]
    assert set(entry) == {"value", "ci_low", "ci_high", "method", "n", "higher_is_better"}
    sample = read_samples(tmp_path)[4]
    assert (sample["id"], sample["cluster"], sample["steps"], sample["finished"]) == ("r4", "2", 2, True)


def test_batch_size_does_not_change_the_samples(tmp_path: Path, scripted: Any, task: Any, lines: Any) -> None:
    run(scripted(), task, tmp_path / "a", batch_size=1)
    run(scripted(), task, tmp_path / "b", batch_size=7)
    assert lines(tmp_path / "a") == lines(tmp_path / "b")
    assert len({json.loads(line)["output"] for line in lines(tmp_path / "a")}) > 1


@pytest.mark.parametrize("row_streams", [True, False])
@pytest.mark.parametrize("cut", [1, 3, 5])
def test_resume_after_a_torn_line_equals_the_whole_run(
    tmp_path: Path, scripted: Any, task: Any, lines: Any, row_streams: bool, cut: int
) -> None:
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    run(scripted(row_streams=row_streams), task, whole)
    text = (whole / "samples.jsonl").read_bytes().split(b"\n")
    torn.mkdir()
    (torn / "samples.jsonl").write_bytes(b"\n".join(text[:cut]) + b"\n" + text[cut][: len(text[cut]) // 2])
    adapter = scripted(row_streams=row_streams)
    run(adapter, task, torn)
    assert lines(whole) == lines(torn)
    assert (whole / "results.json").read_bytes() == (torn / "results.json").read_bytes()
    assert adapter.asked == 10 - cut if row_streams else adapter.asked >= 10 - cut


def test_a_finished_evaluation_asks_nothing(tmp_path: Path, scripted: Any, task: Any) -> None:
    run(scripted(), task, tmp_path)
    before = (tmp_path / "results.json").read_bytes()
    again = scripted()
    run(again, task, tmp_path)
    assert again.calls == 0 and (tmp_path / "results.json").read_bytes() == before


def test_one_bad_row_costs_one_row_and_is_tried_again(
    tmp_path: Path, scripted: Any, task: Any, lines: Any
) -> None:
    results = run(scripted(bad=["r2"]), task, tmp_path / "a")
    assert (results["n"], results["n_error"], results["metrics"]["yes"]["n"]) == (10, 1, 9)
    bad = [sample for sample in read_samples(tmp_path / "a") if "error" in sample]
    assert bad[0]["id"] == "r2" and bad[0]["error"] == "ValueError: this picture is truncated"
    healed = run(scripted(), task, tmp_path / "a")
    whole = run(scripted(), task, tmp_path / "b")
    assert healed == whole


def test_a_fault_in_scoring_is_noted_not_raised(tmp_path: Path, scripted: Any, task: Any) -> None:
    good = task.score
    task.score = lambda row, output: good(row, output) if row.id != "r1" else 1 / 0
    assert run(scripted(), task, tmp_path)["n_error"] == 1


def test_a_batch_that_fails_whole_stops_with_the_reason(tmp_path: Path, scripted: Any, task: Any) -> None:
    with pytest.raises(UserError, match=r"every answer of a batch failed.*truncated"):
        run(scripted(bad=[f"r{k}" for k in range(4)]), task, tmp_path)


@pytest.mark.parametrize(
    ("change", "named"), [({"seed": 4}, "generation"), ({"temperature": 0.5}, "generation")]
)
def test_samples_of_another_request_are_refused(
    tmp_path: Path, scripted: Any, task: Any, change: dict, named: str
) -> None:
    run(scripted(), task, tmp_path)
    with pytest.raises(UserError, match=f"made with another {named}"):
        run(scripted(), task, tmp_path, **change)


def test_changed_data_is_refused(tmp_path: Path, scripted: Any, task: Any) -> None:
    run(scripted(), task, tmp_path)
    task.n = 12
    with pytest.raises(UserError, match="made with another data"):
        run(scripted(), task, tmp_path)


def test_cache_serves_greedy_answers_of_known_weights_only(tmp_path: Path, scripted: Any, task: Any) -> None:
    def ask(folder: str, temperature: float, info: dict[str, Any]) -> int:
        adapter = scripted()
        settings = {"temperature": temperature, "model_info": info, "progress": False}
        evaluate(adapter, None, task, tmp_path / folder, cache_dir=tmp_path / "cache", **settings)
        return int(adapter.asked)

    known, unknown = {"sha256": "a" * 64}, {"id": "m"}
    assert ask("a", 0.0, known) == 10
    assert ask("b", 0.0, known) == 0
    assert read_results(tmp_path / "a") == read_results(tmp_path / "b")
    assert ask("c", 1.0, known) == 10 and ask("d", 0.0, unknown) == 10
    assert ask("e", 0.0, {"sha256": "b" * 64}) == 10


def test_progress_reaches_the_total(tmp_path: Path, scripted: Any, task: Any) -> None:
    seen: list[tuple[int, int]] = []
    run(scripted(), task, tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (10, 10)


def test_rebuild_needs_only_the_samples(tmp_path: Path, scripted: Any, task: Any) -> None:
    results = run(scripted(), task, tmp_path)
    (tmp_path / "results.json").unlink()
    assert rebuild(tmp_path, task) == results


def test_what_cannot_be_evaluated(tmp_path: Path, scripted: Any, task: Any) -> None:
    with pytest.raises(UserError, match="cannot sample"):
        run(object(), task, tmp_path)
    task.n = 0
    with pytest.raises(UserError, match="has no rows"):
        run(scripted(), task, tmp_path)
