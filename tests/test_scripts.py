"""The scripts a user starts with: a recipe by name, an evaluation of its run, and one sentence where a word is wrong."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
TRAIN = ("train_vlm", "train_diffusion", "train_music", "train_robot")
SHORT = ("--sft.max_steps=2", "--evaluate.n=4", "--stages=[sft,evaluate,report]")


def _run(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", [f"scripts/{name}.py", *arguments])
    runpy.run_path(str(SCRIPTS / f"{name}.py"), run_name="__main__")


@pytest.mark.parametrize("name", TRAIN)
def test_a_script_runs_the_recipe_it_is_given_and_shows_a_table(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _run(monkeypatch, name, "--config", "toy", f"--output_dir={tmp_path}", *SHORT)
    shown = capsys.readouterr().out
    assert "95 % interval" in shown and f"report: {tmp_path / 'report.html'}" in shown
    assert (tmp_path / "stages" / "sft" / "final").is_dir()


def test_the_evaluation_script_takes_a_run_or_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    _run(
        monkeypatch, "train_vlm", "--config=toy", f"--output_dir={run}", "--sft.max_steps=2", "--stages=[sft]"
    )
    assert f"run folder: {run}" in capsys.readouterr().out
    _run(monkeypatch, "evaluate", "--config", str(run))
    assert (run / "report.html").is_file() and "toy, sampled" in capsys.readouterr().out
    model = str(run / "stages" / "sft" / "final")
    flags = ["--config=toy", f"--model.model_name_or_path={model}", f"--output_dir={other}", "--evaluate.n=4"]
    _run(monkeypatch, "evaluate", *flags)
    (answers,) = other.glob("evals/*/toy@T1/samples.jsonl")
    assert len(answers.read_text().splitlines()) == 4


@pytest.mark.parametrize("name", [*TRAIN, "evaluate"])
def test_help_and_mistakes_of_a_script(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        _run(monkeypatch, name, "--help")
    shown = capsys.readouterr().out
    assert left.value.code == 0 and f"python scripts/{name}.py" in shown and "--grpo.kl_coef" in shown
    for wrong, says in (("--config", "expected one argument"), ("--sft.max_stepz=1", "max_stepz")):
        with pytest.raises(SystemExit) as left:
            _run(monkeypatch, name, wrong)
        assert left.value.code == 2 and says in capsys.readouterr().err
