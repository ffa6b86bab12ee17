"""That policies learn: cloning, PPO and GRPO where the best is known, preferences, and an exact resume."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from robot_policies import made

from mmalign.config.load import load_config, written_for
from mmalign.data.pairs import pairs_from_rows
from mmalign.engine.offline import sft_objective
from mmalign.engine.pairs import pair_objective
from mmalign.engine.reference import Reference
from mmalign.errors import UserError
from mmalign.objectives.preference import PairSettings
from mmalign.pipeline.context import RunContext
from mmalign.pipeline.run import run_recipe
from mmalign.rewards.preference import PreferenceReward, PreferenceRewardModel, ranked_from_rows
from mmalign.rewards.preference.options import Options
from mmalign.rewards.sweep import EpisodeReward
from mmalign.rng import generator
from mmalign.testing.conformance import reward_suite
from mmalign.types import Row
from mmalign.worlds import seeds, sweep

PAIRS = sweep.rows("train", 16, kind="preference")


@pytest.mark.parametrize("options", [{}, {"policy": "tokens"}, {"policy": "diffusion", "chunk": 2}])
def test_cloning_overfits_one_episode(options: dict[str, Any]) -> None:
    start = sweep.Start("goal", "gripper", 4)
    row = Row("one", str(start), completion=sweep.play([start])[0])
    adapter, model = made(width=64, layers=2, **options)
    loss = sft_objective(adapter, model)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(400):
        optimizer.zero_grad()
        loss([row], generator(step, "x")).value.backward()
        optimizer.step()
    again = adapter.sample(model, [row], 1, generator(0, "x"), temperature=0.0, max_steps=480)
    assert row.completion.succeeded and again.rows[0].completion.succeeded


IDENTITY = {
    "gaussian": {"environment": "gymnasium:Identity-v0"},
    "tokens": {"environment": "gymnasium:IdentityChoice-v0", "policy": "tokens"},
}


def _recipe(folder: Path, options: dict[str, Any], *flags: str) -> Path:
    base = {"width": 16, "layers": 1, **options}
    given = [f"--model.options.{name}={value}" for name, value in base.items()]
    small = [
        "--sft.max_steps",
        "0",
        "--data.world",
        "seeds",
        "--evaluate.tasks",
        "episodes",
        "--evaluate.n",
        "24",
    ]
    small += [
        "--reward.options",
        "{environment: 1.0}",
        "--output_dir",
        str(folder),
        "--guard.enabled",
        "false",
    ]
    return run_recipe(load_config("robot-ppo", [*given, *small, *flags]))


def _returns(run: Path, arm: str) -> float:
    import json

    results = json.loads((run / "evals" / arm / "episodes@greedy" / "results.json").read_text())
    return float(results["metrics"]["return"]["value"])


PPO = ["--ppo.max_steps", "30", "--ppo.rollout_batch_size", "32", "--ppo.learning_rate", "1e-2"]
PPO += [
    "--ppo.critic_warmup_steps",
    "1",
    "--ppo.gamma",
    "0.0",
    "--ppo.kl_stop",
    "1.0",
    "--ppo.kl_coef",
    "0.0",
]
PPO += ["--ppo.critic_learning_rate", "1e-2", "--evaluate.temperatures", "0.0", "--data.n_train", "128"]


@pytest.mark.parametrize("name", IDENTITY)
def test_ppo_learns_to_repeat_what_it_sees(tmp_path: Path, name: str) -> None:
    run = _recipe(tmp_path / "run", IDENTITY[name], *PPO)
    assert _returns(run, "ppo") > max(-0.6, _returns(run, "sft") + 1.0)


def test_a_killed_run_ends_with_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = [*PPO, "--ppo.max_steps", "5", "--ppo.save_steps", "2"]
    whole = _recipe(tmp_path / "whole", IDENTITY["gaussian"], *flags)
    calls, plain = [0], EpisodeReward.__call__

    def dies(self: EpisodeReward, rollout: Any) -> Any:
        calls[0] += 1
        if calls[0] == 4:
            raise KeyboardInterrupt
        return plain(self, rollout)

    monkeypatch.setattr(EpisodeReward, "__call__", dies)
    with pytest.raises(KeyboardInterrupt):
        _recipe(tmp_path / "killed", IDENTITY["gaussian"], *flags)
    killed = _recipe(tmp_path / "killed", IDENTITY["gaussian"], *flags)
    for name in (
        "metrics.jsonl",
        "stages/ppo/final/model.safetensors",
        "evals/ppo/episodes@greedy/results.json",
    ):
        assert (whole / name).read_bytes() == (killed / name).read_bytes(), name
    assert calls[0] > 5


def test_a_diffusion_policy_learns_from_compared_segments() -> None:
    """Diffusion-DPO's surrogate: log 2 at the reference, and then the better segments are denoised better."""
    adapter, model = made(policy="diffusion", width=48, layers=2)
    reference = Reference(adapter, model, "copy")
    pairs = pairs_from_rows(PAIRS)
    loss = pair_objective(adapter, model, reference, PairSettings(beta=1.0))
    first = loss(pairs, generator(0, "x"))
    assert float(first.value) == pytest.approx(math.log(2), abs=1e-5)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for step in range(60):
        optimizer.zero_grad()
        loss(pairs, generator(step, "x")).value.backward()
        optimizer.step()
    after = loss(pairs, generator(1000, "x"))
    assert float(after.value) < 0.55 and float(after.metrics["rewards/accuracies"]) > 0.75


def test_a_preference_reward_learns_from_compared_segments() -> None:
    """The reward model of text and pictures serves segments as it is."""
    adapter, _ = made(width=32, layers=1)
    groups = ranked_from_rows(PAIRS)
    options = Options(pool="sum", head="mlp")
    model = PreferenceRewardModel.build(adapter, "robot:0", groups[0].rows[0], options)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    before = float(model.loss(groups)[0])
    for _ in range(60):
        optimizer.zero_grad()
        model.loss(groups)[0].backward()
        optimizer.step()
    after, metrics = model.loss(groups)
    assert before == pytest.approx(math.log(2), abs=1e-4) and float(after) < 0.4 and metrics["accuracy"] > 0.8
    policy = adapter.load("robot:1")
    rollout = adapter.sample(policy, sweep.rows("train", 3), 1, generator(0, "x"), max_steps=10)
    assert reward_suite(PreferenceReward(model), rollout)


def test_seeds_are_rows() -> None:
    assert len({row.prompt for split in seeds.SPLITS for row in seeds.rows(split, 20)}) == 60
    assert np.all([row.prompt.isdigit() for row in seeds.rows("train", 3)])


def test_a_recipe_asked_for_another_modality_says_whose_it_is(tmp_path: Path) -> None:
    there = ["--output_dir", str(tmp_path)]
    asked = load_config("robot-ppo", [*there, "--modality", "diffusion"])
    with pytest.raises(
        UserError, match=r"unknown key .*recipe robot-ppo is written for modality robot, not dif"
    ):
        _ = RunContext(asked, tmp_path).adapter
    own = load_config("robot-ppo", [*there, "--model.options.polcy=tokens"])
    with pytest.raises(UserError, match="unknown key 'polcy'") as caught:
        _ = RunContext(own, tmp_path).adapter
    assert "written for" not in str(caught.value)
    fits = load_config(
        "fact-rlhf", [*there, "--modality", "robot"]
    )  # no option of its own: nothing to complain of
    assert RunContext(fits, tmp_path).adapter.name == "robot" and written_for(fits) == "vision"
