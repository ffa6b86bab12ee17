"""What a run says and writes down: the command that was typed, and what it leaves out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmalign.config.load import load_config
from mmalign.errors import UserError
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


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--modality=toyy", "modality"),
        ("--data.world=toyy", "data.world"),
        ("--model.model_name_or_path=embedded:9", "model.model_name_or_path: no start model 'embedded:9'"),
        (
            "--reward_model.model_name_or_path=embedded:eye",
            "reward_model.model_name_or_path: the world toy has no",
        ),
        ("--model.options={nonsense: 1}", "model.options"),
    ],
)
def test_a_name_that_is_not_there_is_refused_before_anything_is_written(
    flag: str, says: str, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(UserError, match=says):
        open_run(load_config("toy", [f"--output_dir={folder}", flag]))
    assert not folder.exists()


def test_steps_that_only_warm_the_critic_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--stages=[ppo]", "--reward.name=toy", "--ppo.critic_warmup_steps=2"]
    for steps, said in ((2, True), (3, False)):
        run_recipe(
            load_config("toy", [*flags, f"--output_dir={tmp_path / str(steps)}", f"--ppo.max_steps={steps}"])
        )
        assert ("ppo.critic_warmup_steps: in all 2 steps only the critic" in capsys.readouterr().err) is said
