"""The stages of the core on a tiny pipeline: every method takes its steps, and a killed run ends with the same numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from mmalign.config.load import load_config
from mmalign.engine.online import OnlineTrainer
from mmalign.errors import UserError
from mmalign.pipeline.run import run_recipe

GRPO = {
    "max_steps": 4, "rollout_batch_size": 2, "num_generations": 3, "per_device_train_batch_size": 4,
    "learning_rate": 1e-3, "num_minibatches": 2, "cliprange": None, "kl_estimator": "exact", "kl_coef": 1e-4,
    "kl_stop": 1e6, "save_steps": 1,
}  # fmt: skip
SHORT = {"max_steps": 2, "per_device_train_batch_size": 3, "learning_rate": 1e-3}
STAGES: dict[str, dict[str, Any]] = {
    "sft": {"sft": SHORT, "model": {"options": {"prompt_dropout": 0.2}}},
    "dpo": {"dpo": {**SHORT, "beta": 5000.0, "n_pairs": 6, "n_heldout": 3}},
    "kto": {"kto": {**SHORT, "beta": 2500.0, "n_pairs": 6, "n_heldout": 3}},
    "pathwise": {"pathwise": {"max_steps": 2, "rollout_batch_size": 3, "grad_steps": 2, "kl_coef": 1e-4}},
    "iterate": {
        "model": {"options": {"score": "denoising"}},
        "iterate": {
            "iterations": 1, "updates": 2, "prompts": 3, "num_generations": 3, "label": "reward", "select": "best",
            "update": "nll", "rollout_batch_size": 3, "batch_size": 3, "per_device_train_batch_size": 3, "n_heldout": 2,
        },
    },
}  # fmt: skip


@pytest.fixture
def launch(folders: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    """Run stages on the tiny drawing pipeline; sections are merged over a base configuration."""

    def launched(stage: str, out: str, **sections: Any) -> Path:
        base: dict[str, Any] = {
            "recipe": "tiny",
            "modality": "diffusion",
            "output_dir": str(tmp_path / out),
            "stages": [stage],
            "model": {"model_name_or_path": str(folders("drawing")), "options": {"num_inference_steps": 4}},
            "data": {"world": "drawings", "n_train": 6, "n_validation": 4},
            "reward": {"name": "brightness"},
        }
        for name, section in sections.items():
            base[name] = {**base.get(name, {}), **section}
            if name == "model":
                base[name]["options"] = {"num_inference_steps": 4, **section.get("options", {})}
        file = tmp_path / f"{out}.yaml"
        file.write_text(yaml.safe_dump(base))
        return run_recipe(load_config(str(file), []))

    return launched


def metrics(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "time" not in k and "second" not in k} for line in lines]


def weights(run: Path, stage: str) -> dict[str, torch.Tensor]:
    found = sorted((run / "stages" / stage / "final" / "transformer").glob("*.safetensors"))
    return {name: value for file in found for name, value in load_file(file).items()}


@pytest.mark.parametrize("stage", list(STAGES))
def test_a_stage_moves_the_denoiser(
    stage: str, launch: Callable[..., Path], folders: Callable[[str], Path]
) -> None:
    run = launch(stage, stage, **STAGES[stage])
    log = metrics(run)
    assert len(log) >= 2 and all(torch.isfinite(torch.tensor(line["loss"])) for line in log if "loss" in line)
    before = load_file(next((folders("drawing") / "transformer").glob("*.safetensors")))
    after = weights(run, stage)
    assert set(after) == set(before) and any(
        not torch.equal(after[name], value) for name, value in before.items()
    )


def test_rounds_scored_by_denoising_still_know_their_distance(launch: Callable[..., Path]) -> None:
    """The exact KL of the drawn steps: nothing where nothing was learnt, more than nothing where something was."""
    found = {}
    for rate in (1e-12, 1e-2):
        sections = {**STAGES["iterate"], "iterate": {**STAGES["iterate"]["iterate"], "learning_rate": rate}}
        found[rate] = metrics(launch("iterate", f"rate-{rate}", **sections))[-1]["kl"]
    assert 0 <= found[1e-12] < 1e-6 < 1e-2 < found[1e-2]


def test_rounds_of_a_deterministic_sampler(launch: Callable[..., Path]) -> None:
    """Its pictures have no steps: no reward can stand on them, and there is no KL."""
    still = {"model": {"options": {"score": "denoising", "eta": 0.0}}}
    with pytest.raises(UserError, match="no steps that a reward could stand on"):
        launch("iterate", "rewarded", **{**STAGES["iterate"], **still})
    given = {**STAGES["iterate"]["iterate"], "label": "data", "select": "data"}
    last = metrics(launch("iterate", "given", **still, iterate=given))[-1]
    assert "kl" not in last and last["completion_length"] == 0


@pytest.mark.parametrize("lora", [0, 2])
def test_a_killed_grpo_run_ends_with_the_same_numbers(
    lora: int, launch: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sections = {"grpo": GRPO, "model": {"lora_r": lora, "options": {"train_fraction": 0.7}}}
    whole = launch("grpo", "whole", **sections)
    own = OnlineTrainer.step

    def dies(self: OnlineTrainer, step: int) -> Mapping[str, float]:
        if step == 3:
            raise KeyboardInterrupt
        return own(self, step)

    monkeypatch.setattr(OnlineTrainer, "step", dies)
    with pytest.raises(KeyboardInterrupt):
        launch("grpo", "parts", **sections)
    monkeypatch.setattr(OnlineTrainer, "step", own)
    parts = launch("grpo", "parts", **sections)
    assert metrics(parts) == metrics(whole)
    kept, again = weights(whole, "grpo"), weights(parts, "grpo")
    assert all(torch.equal(again[name], value) for name, value in kept.items())
    first = metrics(whole)[0]
    assert first["kl"] == pytest.approx(0.0, abs=1e-3) and first["clip_ratio"] >= 0


def test_a_critic_is_refused(launch: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="hidden"):
        launch("ppo", "ppo", ppo={"max_steps": 1, "rollout_batch_size": 2})
