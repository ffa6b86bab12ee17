"""Stage ``offline_rl`` in a recipe: it trains, leaves a policy that loads, and refuses what cannot work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmalign.config.load import load_config
from mmalign.errors import UserError
from mmalign.pipeline.run import open_run, run_one, run_recipe

SMALL = (
    "--stages=offline_rl", "--offline_rl.n_offline=6", "--offline_rl.offline_steps=1", "--offline_rl.online_steps=1",
    "--offline_rl.updates=2", "--offline_rl.episodes=1", "--offline_rl.warmup_episodes=0", "--offline_rl.batch_size=8",
    "--offline_rl.max_episode_steps=5", "--data.world=sweep-demos",
)  # fmt: skip


def settings(folder: Path, *flags: str) -> Any:
    return load_config("cal-ql", [*SMALL, f"--output_dir={folder}", *flags])


def test_the_stage_leaves_a_policy_and_its_numbers(tmp_path: Path) -> None:
    run_recipe(
        settings(tmp_path / "a", "--offline_rl.continuing=true", "--model.options.stop_on_success=false")
    )
    folder = tmp_path / "a" / "stages" / "offline_rl"
    assert (folder / "final" / "model.safetensors").is_file() and not (folder / "collected").exists()
    records = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records] == [1, 2]
    assert "collect/return" not in records[0] and records[1]["collect/resets"] == 1
    facts = json.loads((folder / "done.json").read_text())
    assert facts["transitions"] > 50


def test_keeping_less_leaves_fewer_transitions(tmp_path: Path) -> None:
    counts = []
    for keep in ("1.0", "0.34"):
        flags = ("--offline_rl.algorithm=bc", "--offline_rl.online_steps=0", f"--offline_rl.keep={keep}")
        run_recipe(settings(tmp_path / keep, *flags))
        counts.append(
            json.loads((tmp_path / keep / "stages/offline_rl/done.json").read_text())["transitions"]
        )
    assert counts[1] < counts[0]


def test_what_cannot_work_is_refused_in_one_sentence(tmp_path: Path) -> None:
    ctx = open_run(load_config("toy", [f"--output_dir={tmp_path / 'toy'}"]))
    with pytest.raises(UserError, match="has no transitions"):
        run_one(ctx, "offline_rl")
    clipped = settings(tmp_path / "clip", "--model.options.squash=clip")
    with pytest.raises(UserError, match="tanh"):
        run_recipe(clipped)
