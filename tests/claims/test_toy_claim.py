"""A whole claim on the toy modality: folders, records, exit status, resume after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from mmalign.claims.results import Cell, Results
from mmalign.claims.run import run_claim
from mmalign.errors import UserError
from tests.claims import toy_claim

ROOT = Path(__file__).resolve().parents[2]


def run(
    attribute: str, folder: Path, *, seeds: int = 1, quick: bool = False, workers: int = 0
) -> tuple[int, str]:
    said = StringIO()
    console = Console(file=said, width=200)
    name = f"{toy_claim.NAME}:{attribute}"
    status = run_claim(name, seeds=seeds, quick=quick, output_dir=folder, workers=workers, console=console)
    return status, said.getvalue()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    folder = tmp_path_factory.mktemp("claims") / "toy"
    status, said = run("CLAIM", folder, seeds=2)
    return folder, status, said


def test_every_arm_is_an_ordinary_run_folder(whole: tuple[Path, int, str]) -> None:
    folder, _, _ = whole
    for start in ("one", "two"):
        for seed in (0, 1):
            arms = {arm.name for arm in toy_claim.CLAIM.arms_for(seed)}
            cell = folder / f"{start}-seed{seed}"
            assert {path.name for path in cell.iterdir() if path.is_dir()} == arms
            assert all((cell / arm / "config.yaml").is_file() for arm in arms)
    assert not (folder / "one-seed1" / "noisy").exists()


def test_shared_stages_run_once_and_controls_have_their_own(whole: tuple[Path, int, str]) -> None:
    cell = whole[0] / "one-seed0"
    assert not (cell / "dense" / "feedback").exists() and not (cell / "dense" / "stages" / "sft").exists()
    assert (cell / "shared" / "stages" / "sft").is_symlink()
    accuracy = cell / "shuffled" / "evals" / "ppo" / "toy@T1" / "results.json"
    assert (
        accuracy.is_file() and (cell / "greedy" / "evals" / "sft" / "toy@greedy" / "results.json").is_file()
    )
    own, shared = (cell / arm / "feedback" / "train.jsonl" for arm in ("shuffled", "shared"))
    assert own.read_bytes() != shared.read_bytes()
    quality = json.loads((cell / "noisy" / "clean_quality.json").read_text())
    assert set(quality) == {"object", "attribute"}


def test_claim_json_follows_its_schema(whole: tuple[Path, int, str]) -> None:
    folder, status, _ = whole
    record = json.loads((folder / "claim.json").read_text())
    assert record["claim"] == "toy" and record["seeds"] == [0, 1] and record["quick"] is False
    for statement in record["statements"]:
        assert {"id", "text", "verdict", "value", "ci_low", "ci_high", "must_hold"} <= set(statement)
        assert statement["verdict"] in ("holds", "fails", "inconclusive")
    entry = record["arms"]["dense"][toy_claim.ACCURACY]
    assert len(entry["per_seed"]) == 2 and entry["ci_low"] <= entry["mean"] <= entry["ci_high"]
    assert entry["per_seed"][0] == pytest.approx(
        (entry["per_start"]["one"][0] + entry["per_start"]["two"][0]) / 2
    )
    assert record["arms"]["dense"]["train/kl"]["mean"] > 0
    assert len(record["curves"]["dense"]["kl"]) == 8
    assert "ppo.max_steps" in record["held_equal"] and "reward.placement" not in record["held_equal"]
    verdicts = {statement["id"]: statement["verdict"] for statement in record["statements"]}
    assert verdicts["B"] == "fails"
    assert status == (0 if verdicts["A"] == "holds" else 1)


def test_tables_and_verdicts_are_printed(whole: tuple[Path, int, str]) -> None:
    said = whole[2]
    assert "best_of_4" in said and "training raises accuracy" in said and "written to" in said


def test_arms_are_paired_on_the_same_rows(whole: tuple[Path, int, str]) -> None:
    results = Results(toy_claim.CLAIM, whole[0], (0, 1))
    change = results.change("dense", "sft", toy_claim.ACCURACY)
    after = results.value("dense", toy_claim.ACCURACY, Cell("two", 1))
    before = results.value("sft", toy_claim.ACCURACY, Cell("two", 1))
    assert change["two"][1] == pytest.approx(after - before)
    assert results.change("dense", "sft", toy_claim.ACCURACY, relative=True)["one"][0] == pytest.approx(
        change["one"][0] / results.value("sft", toy_claim.ACCURACY, Cell("one", 0))
    )
    with pytest.raises(UserError, match=r"no metric 'toy@T1/acuracy'.*toy@T1/accuracy"):
        results.per_start("dense", "toy@T1/acuracy")


def test_arms_are_paired_where_both_ran(whole: tuple[Path, int, str]) -> None:
    results = Results(toy_claim.CLAIM, whole[0], (0, 1))
    few = results.change("dense", "shuffled", toy_claim.ACCURACY)
    assert {start: len(column) for start, column in few.items()} == {"one": 1, "two": 1}
    assert few == {
        start: [-x for x in column]
        for start, column in results.change("shuffled", "dense", toy_claim.ACCURACY).items()
    }


def test_the_rewards_identities_hold_on_real_answers(whole: tuple[Path, int, str]) -> None:
    found = json.loads((whole[0] / "one-seed0" / "dense" / "identities.json").read_text())
    assert found["n_answers"] == 16 and found["n_not_applicable"] > 0
    for name in ("padding", "between", "not_applicable", "sequence_place"):
        assert found[name] == 0.0
    for name in ("parts", "segments", "sequence"):
        assert found[name] < 1e-5
    assert found["kl_reward"] < 0 < found["kl"]


def test_best_of_n_beats_a_single_draw(whole: tuple[Path, int, str]) -> None:
    results = Results(toy_claim.CLAIM, whole[0], (0, 1))
    gain = results.change("best_of_4", "sft", toy_claim.ACCURACY)
    assert sum(sum(column) for column in gain.values()) > 0


def test_running_again_runs_nothing_and_says_the_same(whole: tuple[Path, int, str]) -> None:
    folder, status, _ = whole
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("arm.json")}
    record = (folder / "claim.json").read_bytes()
    assert run("CLAIM", folder, seeds=2)[0] == status
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("arm.json")}
    assert (folder / "claim.json").read_bytes() == record


def test_an_unmet_must_hold_statement_gives_status_one(tmp_path: Path) -> None:
    status, said = run("UNMET", tmp_path, quick=True)
    assert status == 1 and "not every must-hold statement holds" in said
    assert json.loads((tmp_path / "claim.json").read_text())["quick"] is True


def test_arms_that_differ_where_the_claim_holds_them_equal_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"arms dense and longer differ in ppo.max_steps \(8, 9\)"):
        run("UNEQUAL", tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_failing_cell_is_named_and_goes_on_once_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"failed: the toy is broken on purpose .*same command"):
        run("FAILING", tmp_path, workers=1)
    (tmp_path / "mended").touch()
    monkeypatch.setenv("TOY_CLAIM_MENDED", str(tmp_path / "mended"))
    assert run("FAILING", tmp_path)[0] == 0


def test_a_killed_claim_goes_on_and_ends_with_the_same_record(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from mmalign.claims.run import run_claim; "
        f"run_claim('{toy_claim.NAME}:SHORT', seeds=1, output_dir=Path({str(tmp_path / 'killed')!r}), workers=1)"
    )
    environment = {**os.environ, "TOY_CLAIM_PAUSE": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)
    waiting = tmp_path / "killed" / "one-seed0" / "sequence" / "waiting"
    deadline = time.monotonic() + 100
    while not waiting.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert waiting.exists()
    status, _ = run("SHORT", tmp_path / "killed")
    expected, _ = run("SHORT", tmp_path / "whole")
    assert status == expected
    killed, whole = (json.loads((tmp_path / name / "claim.json").read_text()) for name in ("killed", "whole"))
    assert killed == whole
