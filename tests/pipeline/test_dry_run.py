"""``--dry-run`` really runs a step, writes nothing and finds what the real run would stop with."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmalign.config.load import load_config
from mmalign.errors import UserError
from mmalign.pipeline.dry_run import StageEstimate, dry_run, estimate_table, shrunk


def test_dry_run_steps_every_stage_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dry_run(load_config("toy", ["--output_dir", str(tmp_path / "run")]))
    printed = capsys.readouterr().out
    for stage in ("sft", "feedback", "reward_model", "ppo"):
        assert stage in printed
    assert "peak memory" in printed
    assert list(tmp_path.iterdir()) == []


def test_dry_run_finds_bad_rows(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"promt": "b", "completion": "a ."}\n')
    flags = ["--data.train", str(rows), "--output_dir", str(tmp_path / "run")]
    with pytest.raises(
        UserError, match=r"rows.jsonl: row 1: has no column 'prompt'.*did you mean \"prompt\""
    ):
        dry_run(load_config("toy", flags))


def test_shrunk_touches_sizes_only() -> None:
    cfg = load_config("toy", [])
    small = shrunk(cfg)
    assert small.ppo.max_steps == small.sft.max_steps == small.reward_model.max_steps == 1
    assert small.ppo.learning_rate == cfg.ppo.learning_rate
    assert small.reward == cfg.reward


def test_estimates_scale_with_the_answers() -> None:
    assert StageEstimate("ppo", 2.0, 2, 640).total == 640.0
    assert "640 s" in estimate_table([StageEstimate("ppo", 2.0, 2, 640)])
