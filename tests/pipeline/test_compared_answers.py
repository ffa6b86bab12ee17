"""A preference model of answers that the judge compared, and plain rewards paid beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmalign.config.load import load_config
from mmalign.errors import UserError
from mmalign.pipeline.comparing import compared_rows
from mmalign.pipeline.run import open_run, run_recipe
from mmalign.testing.toy_world import ToyCycle

SMALL = [
    "--guard.enabled=false", "--feedback.judge=toy-cycle", "--feedback.n_prompts=48", "--feedback.n_heldout=16",
    "--reward.name=preference", "--reward_model.ranking.pairs=judge", "--reward_model.max_steps=30",
    "--reward.unfinished_penalty=0", "--reward.malformed_penalty=0", "--reward.repeat_penalty=0",
    "--reward.too_short_penalty=0", "--grpo.max_steps=2", "--grpo.rollout_batch_size=4",
    "--grpo.num_generations=4", "--grpo.max_completion_length=8",
]  # fmt: skip


def config(folder: Path, *flags: str) -> Any:
    return load_config("toy", [*SMALL, f"--output_dir={folder}", *flags])


def test_the_judge_chooses_between_two_fresh_answers(tmp_path: Path) -> None:
    ctx = open_run(config(tmp_path))
    rows = compared_rows(ctx, "train")
    assert 8 <= len(rows) <= 48 and len({row.id for row in rows}) == len(rows)
    assert [(r.chosen, r.rejected) for r in rows] == [
        (r.chosen, r.rejected) for r in compared_rows(ctx, "train")
    ]
    judge = ToyCycle()
    odds = [judge.compare(row, row.chosen, row.rejected) for row in rows]
    assert sum(odds) / len(odds) > 0.55, "the chosen answer is the one the judge leans to"
    assert all(row.completion is None and row.chosen != row.rejected for row in rows)


def test_rewards_beside_a_trained_one(tmp_path: Path) -> None:
    """Every part is logged under its reward's name, they add up, and the weight counts."""
    folder = run_recipe(config(tmp_path, "--stages=[reward_model,grpo]", "--reward.also={toy: 0.5}"))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    grpo = [line for line in lines if line["stage"] == "grpo"]
    assert len(grpo) == 2
    for line in grpo:
        parts = [line["rewards/toy"], *(v for k, v in line.items() if k.startswith("rewards/preference"))]
        assert line["rewards/mean"] == pytest.approx(sum(parts), abs=1e-5)
    assert any(line["rewards/toy"] for line in grpo)
    assert all(abs(2 * line["rewards/toy"]) <= 2.0 for line in grpo)

    flags = ["--stages=[grpo]", f"--reuse_from={folder}", "--reward.also={toy: 0.0}"]
    watched = run_recipe(config(tmp_path / "watched", *flags))
    first, *_ = [json.loads(line) for line in (watched / "metrics.jsonl").read_text().splitlines()]
    assert first["watch/toy"] == pytest.approx(2 * grpo[0]["rewards/toy"], abs=1e-5)
    paid = [value for name, value in first.items() if name.startswith("rewards/preference")]
    assert first["rewards/mean"] == pytest.approx(sum(paid), abs=1e-5) and "rewards/toy" not in first


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--feedback.judge=toy"], "feedback.judge: toy verifies facts but cannot compare two answers"),
        (["--reward.name=toy", "--reward.also={toy: 1.0}"], "reward.also: toy must be a plain reward other"),
        (["--reward.name=toy", "--reward.also={fgaif: 1.0}"], "reward.also: fgaif must be a plain reward"),
    ],
)
def test_what_does_not_fit_is_said(tmp_path: Path, flags: list[str], message: str) -> None:
    stages = "--stages=[grpo]" if "--reward.name=toy" in flags else "--stages=[reward_model]"
    with pytest.raises(UserError, match=message):
        run_recipe(config(tmp_path, stages, *flags))
