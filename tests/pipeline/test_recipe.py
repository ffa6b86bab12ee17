"""A whole recipe on the toy modality: it improves, resumes exactly, shares stages and refuses nonsense."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmalign.config.load import load_config
from mmalign.errors import UserError
from mmalign.pipeline.run import run_recipe, run_stage

STAGES = ["--stages", "sft,feedback,reward_model,ppo,evaluate"]


def _lines(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def _accuracy(run: Path, arm: str, temperature: str = "T1") -> float:
    results = json.loads((run / "evals" / arm / f"toy@{temperature}" / "results.json").read_text())
    return float(results["metrics"]["accuracy"]["value"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "toy"
    return run_recipe(load_config("toy", ["--output_dir", str(folder), *STAGES]))


def test_the_recipe_improves_the_policy(finished: Path) -> None:
    assert _accuracy(finished, "ppo") > _accuracy(finished, "sft") + 0.15
    quality = json.loads((finished / "stages" / "reward_model" / "quality.json").read_text())
    assert quality["object"]["applicable"]["accuracy"] > quality["object"]["applicable"]["majority"]


def test_the_run_folder_holds_what_a_reader_needs(finished: Path) -> None:
    for name in ("config.yaml", "config.json", "env.json", "metrics.jsonl", "feedback/train.jsonl"):
        assert (finished / name).is_file(), name
    stages = {str(record["stage"]) for record in _lines(finished)}
    assert stages == {"sft", "reward_model", "ppo"}
    ppo = [record for record in _lines(finished) if record["stage"] == "ppo"]
    assert [record["step"] for record in ppo] == list(range(1, 21))
    assert {"rewards/mean", "rewards/fgaif/object", "rewards/fgaif/attribute", "kl", "entropy", "completion_length", "policy_loss",
            "value_loss", "clip_ratio", "grad_norm", "kl_coef"} <= set(ppo[0])  # fmt: skip


def test_final_model_loads_and_running_again_changes_nothing(finished: Path) -> None:
    before = (finished / "metrics.jsonl").read_bytes()
    run_recipe(load_config("toy", ["--output_dir", str(finished), *STAGES]))
    assert (finished / "metrics.jsonl").read_bytes() == before


def test_another_configuration_is_refused(finished: Path) -> None:
    with pytest.raises(UserError, match=r"ppo.learning_rate = 0.005, now 0.002"):
        run_recipe(
            load_config("toy", ["--output_dir", str(finished), "--ppo.learning_rate", "0.002", *STAGES])
        )


def test_an_arm_reuses_shared_stages(finished: Path, tmp_path: Path) -> None:
    flags = ["--output_dir", str(tmp_path / "arm"), "--reuse_from", str(finished), *STAGES]
    arm = run_recipe(load_config("toy", [*flags, "--reward.placement", "sequence", "--ppo.max_steps", "3"]))
    assert {str(record["stage"]) for record in _lines(arm)} == {"ppo"}
    assert not (arm / "stages" / "sft").exists()


def test_grpo_runs_on_the_same_rewards(finished: Path, tmp_path: Path) -> None:
    flags = ["--output_dir", str(tmp_path / "arm"), "--reuse_from", str(finished), "--stages", "grpo"]
    arm = run_recipe(
        load_config(
            "toy",
            [
                *flags,
                "--grpo.max_steps",
                "4",
                "--grpo.learning_rate",
                "1e-2",
                "--grpo.max_completion_length",
                "8",
            ],
        )  # fmt: skip
    )
    rewards = [record["rewards/mean"] for record in _lines(arm)]
    assert rewards[-1] > rewards[0]


def test_a_stage_alone_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="stage reward_model has not finished"):
        run_stage(load_config("toy", ["--output_dir", str(tmp_path / "run")]), "ppo")
    with pytest.raises(UserError, match=r'unknown stage .*did you mean "ppo"'):
        run_recipe(load_config("toy", ["--output_dir", str(tmp_path / "run"), "--stages", "ppoo"]))


def test_second_start_model(tmp_path: Path) -> None:
    flags = ["--output_dir", str(tmp_path / "run"), "--stages", "sft", "--sft.max_steps", "1"]
    run_recipe(load_config("toy", [*flags, "--model.model_name_or_path", "embedded:1"]))
    with pytest.raises(UserError, match="no start model 'embedded:7'"):
        run_recipe(
            load_config(
                "toy",
                [
                    "--output_dir",
                    str(tmp_path / "b"),
                    "--stages",
                    "sft",
                    "--sft.max_steps",
                    "1",
                    "--model.model_name_or_path",
                    "embedded:7",
                ],
            )  # fmt: skip
        )


@pytest.mark.slow
def test_killed_runs_end_like_the_uninterrupted_one(finished: Path, tmp_path: Path) -> None:
    """Four kills at different moments of the run, then the metrics and results files are equal."""
    killed = tmp_path / "killed"
    script = "import sys; from mmalign.pipeline.run import run_recipe; from mmalign.config.load import load_config; "
    script += "run_recipe(load_config('toy', sys.argv[1:]))"
    command = [sys.executable, "-c", script, "--output_dir", str(killed), *STAGES]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    for lines in (3, 60, 100, 115):
        process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        metrics = killed / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if metrics.is_file() and metrics.read_bytes().count(b"\n") >= lines:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.005)
        process.communicate()
    subprocess.run(command, env=env, check=True, capture_output=True)
    assert (killed / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()
    for arm in ("sft", "ppo"):
        mine, whole = (json.loads((run / "evals" / arm / "toy@T1" / "samples.jsonl").read_text().splitlines()[0])
                       for run in (killed, finished))  # fmt: skip
        assert mine["output"] == whole["output"]
        assert _accuracy(killed, arm) == _accuracy(finished, arm)
    for file in (finished / "stages" / "ppo" / "final").iterdir():
        assert (killed / "stages" / "ppo" / "final" / file.name).read_bytes() == file.read_bytes()


def test_a_stage_does_not_depend_on_what_the_process_did_before(tmp_path: Path) -> None:
    """New layers are drawn alike in one long process and in one that resumes at this stage."""
    flags = [
        "--stages",
        "[feedback,reward_model]",
        "--reward_model.max_steps",
        "1",
        "--reward_model.head",
        "mlp",
    ]
    weights = []
    for name, noise in (("one", 1), ("two", 1234)):
        torch.manual_seed(noise)
        folder = run_recipe(load_config("toy", ["--output_dir", str(tmp_path / name), *flags]))
        weights.append(load_file(folder / "stages/reward_model/final/heads.safetensors"))
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
