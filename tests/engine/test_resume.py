"""Checkpoints resume exactly, survive kills and full disks, and refuse what does not fit."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mmalign.engine import atomic
from mmalign.engine.checkpoint import latest_checkpoint, load_checkpoint
from mmalign.engine.loop import run_loop
from mmalign.engine.step import Loss, optimisation_step
from mmalign.errors import UserError
from mmalign.types import Rollout, StepReward
from tests.engine.settings import ListSink, loop_arguments, make_trainer, ppo_settings


def _run(folder: Path, steps: int, sink: ListSink) -> dict[str, torch.Tensor]:
    trainer = make_trainer(ppo_settings(max_steps=6, kl_target=2.0))
    run_loop(trainer.step, trainer.state, **loop_arguments(folder, sink, steps))
    return trainer.model.state_dict()


def test_resumed_run_equals_uninterrupted(tmp_path: Path) -> None:
    whole, parts = ListSink(), ListSink()
    weights = _run(tmp_path / "whole", 6, whole)
    _run(tmp_path / "parts", 3, parts)
    resumed = _run(tmp_path / "parts", 6, parts)
    assert parts.records == whole.records
    assert all(torch.equal(resumed[name], value) for name, value in weights.items())


def test_resume_goes_back_to_the_last_checkpoint(tmp_path: Path) -> None:
    """Killed after step 5 with checkpoints every 2: steps 5 and 6 are done again, with equal metrics."""
    whole, parts = ListSink(), ListSink()
    _run(tmp_path / "whole", 6, whole)
    trainer = make_trainer(ppo_settings(max_steps=6, kl_target=2.0))

    class Killed(Exception):
        pass

    def dies(step: int) -> dict[str, float]:
        metrics = dict(trainer.step(step))
        if step == 5:
            parts.log(metrics, step)
            raise Killed
        return metrics

    with pytest.raises(Killed):
        run_loop(dies, trainer.state, **loop_arguments(tmp_path / "parts", parts, 6))
    _run(tmp_path / "parts", 6, parts)
    assert parts.records == whole.records


def test_checkpoint_of_another_shape_is_refused(tmp_path: Path) -> None:
    _run(tmp_path, 2, ListSink())
    trainer = make_trainer(ppo_settings(advantage="rloo", num_generations=2))
    newest = latest_checkpoint(tmp_path)
    assert newest is not None
    with pytest.raises(UserError, match="holds other parameters"):
        load_checkpoint(newest, modules=trainer.state.modules, optimizer=trainer.state.optimizer)


def test_half_written_checkpoint_is_not_seen(tmp_path: Path) -> None:
    _run(tmp_path, 4, ListSink())
    (tmp_path / ".checkpoint-9.tmp-1").mkdir()
    (tmp_path / "checkpoint-8").mkdir()
    newest = latest_checkpoint(tmp_path)
    assert newest is not None and newest.name == "checkpoint-4"


def test_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "state.json"
    atomic.write_json(file, {"step": 1})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="the disk is full"):
        atomic.write_json(file, {"step": 2})
    with pytest.raises(UserError, match="the disk is full"):
        atomic.write_folder(tmp_path / "folder", lambda target: (target / "a").write_text("b") and None)
    monkeypatch.undo()
    assert file.read_text().strip() == '{\n  "step": 1\n}'
    assert [p.name for p in tmp_path.iterdir()] == ["state.json"]


def test_nan_stops_with_one_sentence() -> None:
    trainer = make_trainer(ppo_settings())
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    honest = trainer.reward

    def poisoned(rollout: Rollout) -> StepReward:
        values = honest(rollout).per_step
        values[0, 0] = float("nan")
        return StepReward(values, {})

    trainer.reward = poisoned
    with pytest.raises(UserError, match="stage ppo, step 1: the reward of row 'toy-0-.*' is not finite"):
        trainer.step(1)
    parameter = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.AdamW([parameter])
    with pytest.raises(UserError, match="stage x, step 2: loss became nan"):
        optimisation_step(
            [lambda: Loss(parameter.sum() * float("nan"), 1.0)],
            optimizer,
            max_grad_norm=1.0,
            where="stage x, step 2",
        )
    assert parameter.item() == 1.0
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())


_LONG_RUN = """
import sys
from pathlib import Path
from tests.engine.settings import ListSink, loop_arguments, make_trainer, ppo_settings
from mmalign.engine.loop import run_loop
trainer = make_trainer(ppo_settings(max_steps=10_000))
print("ready", flush=True)
run_loop(trainer.step, trainer.state, **loop_arguments(Path(sys.argv[1]), ListSink(), 10_000, save_steps=1))
"""


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_killed_process_leaves_a_checkpoint_that_loads(tmp_path: Path, sign: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _LONG_RUN, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    deadline = time.monotonic() + 60
    while latest_checkpoint(tmp_path) is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(sign)
    process.communicate(timeout=60)
    newest = latest_checkpoint(tmp_path)
    assert newest is not None
    trainer = make_trainer(ppo_settings())
    state = load_checkpoint(newest, modules=trainer.state.modules, optimizer=trainer.state.optimizer)
    assert state["step"] == int(newest.name.split("-")[1])
