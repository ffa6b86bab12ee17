"""The shipped recipes of cloning and of a diffusion policy's alignment run to their end; GRPO serves a robot as it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import robot_policies  # noqa: F401  (registers the environments)

from mmalign.config.load import load_config
from mmalign.pipeline.run import run_recipe

SMALL = ["--data.n_train", "16", "--evaluate.n", "12", "--evaluate.batch_size", "12", "--guard.n_rows", "4"]


def _steps(run: Path, stage: str) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry for entry in map(json.loads, lines) if entry["stage"] == stage]


def _metrics(run: Path, arm: str, task: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "evals" / arm / task / "results.json").read_text())["metrics"]
    return found


def test_the_recipe_bc_runs_to_its_report(tmp_path: Path) -> None:
    cfg = load_config("bc", [*SMALL, "--output_dir", str(tmp_path / "run"), "--sft.max_steps", "30"])
    run = run_recipe(cfg)
    losses = [entry["loss"] for entry in _steps(run, "sft")]
    assert len(losses) == 30 and sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert _metrics(run, "sft", "sweep@T1")["success"]["n"] == 12
    assert list(run.rglob("*.html"))


def test_the_recipe_of_an_aligned_diffusion_policy_runs_to_its_report(tmp_path: Path) -> None:
    few = ["--sft.max_steps", "20", "--dpo.max_steps", "6", "--dpo.per_device_train_batch_size", "8"]
    cfg = load_config("diffusion-policy-dpo", [*SMALL, *few, "--output_dir", str(tmp_path / "run")])
    run = run_recipe(cfg)
    steps = _steps(run, "dpo")
    assert steps[0]["loss"] == pytest.approx(0.6931, abs=1e-3) and len(steps) == 6  # at the reference: log 2
    assert all(_metrics(run, arm, "sweep@T1")["success"]["n"] == 12 for arm in ("sft", "dpo"))
    assert list(run.rglob("*.html"))


def test_grpo_finds_its_own_densities_again_and_the_reward_rises(tmp_path: Path) -> None:
    """One decision per episode, paid by how well it repeats what is seen; one update per batch, so the ratio is 1."""
    options = {
        "environment": "gymnasium:Identity-v0",
        "max_episode_steps": 1,
        "width": 16,
        "layers": 1,
        "action_std": 0.1,
    }
    flags = [f"--model.options.{name}={value}" for name, value in {**options, "policy": "gaussian"}.items()]
    flags += ["--stages", "[sft,grpo,evaluate]", "--sft.max_steps", "0", "--guard.enabled", "false"]
    flags += ["--data.world", "seeds", "--data.n_train", "256", "--reward.options", "{environment: 1.0}"]
    flags += ["--grpo.max_steps", "40", "--grpo.rollout_batch_size", "16", "--grpo.num_generations", "8"]
    flags += [
        "--grpo.per_device_train_batch_size",
        "128",
        "--grpo.learning_rate",
        "3e-2",
        "--grpo.kl_coef",
        "0.0",
    ]
    flags += ["--grpo.kl_stop", "10.0", "--evaluate.tasks", "episodes", "--evaluate.n", "16"]
    run = run_recipe(load_config("robot-ppo", [*flags, "--output_dir", str(tmp_path / "run")]))
    steps = _steps(run, "grpo")
    assert max(abs(entry["ratio/max"] - 1.0) for entry in steps) < 1e-5
    rewards = [entry["rewards/mean"] for entry in steps]
    assert (
        sum(rewards[-5:]) / 5 > 0.5 * sum(rewards[:5]) / 5
    )  # the error halves at least; noise alone costs 0.04
    assert _metrics(run, "grpo", "episodes@T1")["return"]["value"] > -0.25


def test_cloning_can_be_kept_to_the_first_rows(tmp_path: Path) -> None:
    """Two rows alone, whatever follows them: the same weights from more rows of the same world."""
    one = ["--stages", "[sft]", "--sft.max_steps", "2", "--sft.per_device_train_batch_size", "2"]
    few, more = (
        run_recipe(load_config("bc", [*one, *own, "--output_dir", str(tmp_path / own[-1])]))
        for own in (["--data.n_train", "2"], ["--sft.n_train", "2", "--data.n_train", "9"])
    )
    weights = "stages/sft/final/model.safetensors"
    assert (few / weights).read_bytes() == (more / weights).read_bytes()
