"""What a run says and writes down: the command that was typed, and what it leaves out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmalign.config.load import load_config
from mmalign.pipeline.run import open_run, run_recipe


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("/env/bin/mmalign", "mmalign run toy --name 'two words'"),
        ("/src/mmalign/__main__.py", "python -m mmalign run toy --name 'two words'"),
        ("scripts/train_vlm.py", "python scripts/train_vlm.py run toy --name 'two words'"),
    ],
)
def test_the_command_can_be_typed_again(
    program: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", [program, "run", "toy", "--name", "two words"])
    open_run(load_config("toy", [f"--output_dir={tmp_path}"]))
    assert json.loads((tmp_path / "env.json").read_text())["command"] == said


def test_an_evaluation_without_tasks_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [
        f"--output_dir={tmp_path}",
        "--stages=[sft,evaluate]",
        "--sft.max_steps=1",
        "--evaluate.tasks=[]",
    ]
    run_recipe(load_config("toy", flags))
    assert "evaluate.tasks: none, so nothing is evaluated" in capsys.readouterr().err
    assert not (tmp_path / "evals").exists()
