"""Two processes give the one-process loss and gradient at an equal global batch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

_SCRIPT = """
import json, sys
from pathlib import Path
import torch
from mmalign.engine.experience import make_experience
from mmalign.engine.loop import LoopState
from mmalign.engine.offline import OfflineTrainer, sft_objective
from mmalign.engine.optim import make_optimizer
from mmalign.engine.parallel import make_accelerator
from mmalign.testing.policies import ToyAdapter, toy_rows
from tests.engine.settings import make_trainer, ppo_settings

accelerator = make_accelerator()
adapter = ToyAdapter()
model = adapter.load("toy:3")
state = LoopState({"policy": model}, make_optimizer({"policy": model.parameters()}, {"policy": 1e-2}))
sft = OfflineTrainer(sft_objective(adapter, model), toy_rows(40), state, "sft", 0, 5, 10, 3, accelerator=accelerator)
losses = [dict(sft.step(step)) for step in range(1, 6)]
cfg = ppo_settings(rollout_batch_size=7, num_minibatches=1, num_ppo_epochs=1, critic_warmup_steps=0, whiten_advantages=True)
trainer = make_trainer(cfg)
trainer.accelerator = accelerator
trainer.cfg.temperature = 1.0
# greedy draws depend on no random stream, so every number of processes sees the same answers
sample = trainer.adapter.sample
trainer.adapter.sample = lambda *a, **k: sample(*a, **{**k, "temperature": 0.0})
online = [dict(trainer.step(step)) for step in range(1, 4)]
weights = {n: p.double().sum().item() for n, p in [*model.named_parameters(), *trainer.model.named_parameters()]}
if accelerator.is_main_process:
    Path(sys.argv[1]).write_text(json.dumps({"sft": losses, "ppo": online, "weights": weights}))
"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _launch(script: Path, output: Path, processes: int) -> dict[str, object]:
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_machines", "1",
                "--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1",
                "--main_process_port", str(_free_port()), "--num_processes", str(processes)]  # fmt: skip
    command = [*(launcher if processes > 1 else [sys.executable]), str(script), str(output)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd()), "ACCELERATE_USE_CPU": "true"}
    subprocess.run(command, check=True, env=env, capture_output=True, timeout=120)
    loaded: dict[str, object] = json.loads(output.read_text())
    return loaded


def test_two_processes_equal_one(tmp_path: Path) -> None:
    script = tmp_path / "both.py"
    script.write_text(_SCRIPT)
    one = _launch(script, tmp_path / "one.json", 1)
    two = _launch(script, tmp_path / "two.json", 2)
    for stage in ("sft", "ppo"):
        for left, right in zip(one[stage], two[stage], strict=True):  # type: ignore[call-overload]
            for name in (
                "loss",
                "grad_norm",
                *(["rewards/mean", "kl", "policy_loss"] if stage == "ppo" else []),
            ):
                assert right[name] == pytest.approx(left[name], abs=1e-5), (stage, name)
    assert two["weights"] == pytest.approx(one["weights"], abs=1e-4)
