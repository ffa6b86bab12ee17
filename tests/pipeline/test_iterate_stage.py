"""Stage ``iterate`` on the toy modality: every method runs, resumes in the middle of a round, and says what is wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mmalign.config.load import load_config
from mmalign.errors import UserError
from mmalign.pipeline.run import run_recipe

SMALL = [
    "--stages=[iterate]", "--guard.enabled=false", "--reward.source=judge", "--iterate.iterations=2",
    "--iterate.updates=3", "--iterate.prompts=16", "--iterate.num_generations=4", "--iterate.rollout_batch_size=8",
    "--iterate.learning_rate=1e-2", "--iterate.max_completion_length=6", "--iterate.n_heldout=16",
    "--iterate.batch_size=8", "--iterate.save_steps=1",
]  # fmt: skip
METHODS = {
    "raft": [],
    "top": ["--iterate.select=top"],
    "superhf": ["--iterate.update=superhf", "--iterate.kl_coef=0.3"],
    "spin": ["--iterate.label=data", "--iterate.select=data_policy", "--iterate.update=pair",
             "--iterate.reference=previous"],
    "online-dpo": ["--iterate.select=best_worst", "--iterate.update=pair", "--iterate.reference=previous",
                   "--iterate.length_penalty=0.01"],
    "d3po": ["--iterate.select=best_worst", "--iterate.update=d3po", "--iterate.d3po_clip=0.3"],
    "ema": ["--iterate.select=best_worst", "--iterate.update=pair", "--iterate.reference=ema"],
    "nash-md": ["--iterate.select=all", "--iterate.update=nash", "--iterate.mixture=0.3"],
    "ift": ["--iterate.label=data", "--iterate.select=data", "--iterate.update=ift"],
    "self": ["--iterate.label=judge", "--iterate.judge=policy", "--iterate.judge_template={first} {second}",
             "--iterate.judge_answers=[a,b]", "--iterate.select=best_worst", "--iterate.update=pair",
             "--iterate.reference=previous"],
}  # fmt: skip


def run(folder: Path, *flags: str) -> Path:
    return run_recipe(load_config("toy", [*SMALL, f"--output_dir={folder}", *flags]))


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def final(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "stages/iterate/final/model.safetensors")


def cut(folder: Path, step: int) -> None:
    """Leave the folder as a kill after checkpoint ``step`` would."""
    stage = folder / "stages" / "iterate"
    (stage / "done.json").unlink()
    shutil.rmtree(stage / "final")
    for checkpoint in stage.glob("checkpoint-*"):
        if int(checkpoint.name.split("-")[1]) > step:
            shutil.rmtree(checkpoint)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_resumes_in_the_middle_of_a_round(tmp_path: Path, method: str) -> None:
    whole = run(tmp_path / "whole", *METHODS[method])
    log = metrics(whole)
    assert [record["step"] for record in log] == [1, 2, 3, 4, 5, 6]
    assert log[0]["start/kl"] == 0.0 and log[5]["kl"] != 0.0 and "completion_length" in log[2]
    part = tmp_path / "part"
    shutil.copytree(whole, part)
    config = json.loads((part / "config.json").read_text())
    (part / "config.json").write_text(json.dumps({**config, "output_dir": str(part)}))
    cut(part, 5)
    run(part, *METHODS[method])
    assert (part / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    ours, theirs = final(part), final(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


_CHILD = """
import sys
from tests.pipeline.test_iterate_stage import METHODS, run
from pathlib import Path
run(Path(sys.argv[1]), *METHODS["ema"], "--iterate.iterations=15")
"""


def test_a_killed_run_goes_on_to_the_same_end(tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(folder)], env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 90
    while not list(folder.glob("stages/iterate/checkpoint-[5-9]")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    assert (
        list(folder.glob("stages/iterate/checkpoint-*"))
        and not (folder / "stages/iterate/done.json").exists()
    )
    flags = [*METHODS["ema"], "--iterate.iterations=15"]
    run(folder, *flags)
    whole = run(tmp_path / "whole", *flags)
    assert (folder / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_superhf_without_kl_is_raft_step_for_step(tmp_path: Path) -> None:
    raft = run(tmp_path / "raft")
    superhf = run(tmp_path / "superhf", "--iterate.update=superhf", "--iterate.kl_coef=0")
    for one, other in zip(metrics(raft), metrics(superhf), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-6)
    ours, theirs = final(raft), final(superhf)
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-5) for name in theirs)


@pytest.mark.parametrize("method", ["nash-md", "online-dpo", "ift", "raft"])
def test_forward_passes_do_not_change_the_update(tmp_path: Path, method: str) -> None:
    logs = [
        metrics(run(tmp_path / str(size), *METHODS[method], f"--iterate.per_device_train_batch_size={size}"))
        for size in (8, 3)
    ]
    for one, other in zip(logs[0][:3], logs[1][:3], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-4)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)


def test_a_large_prior_keeps_the_policy_near_its_start(tmp_path: Path) -> None:
    ends = [
        metrics(run(tmp_path / str(coef), "--iterate.update=superhf", f"--iterate.kl_coef={coef}"))[-1]["kl"]
        for coef in (0.0, 30.0)
    ]
    assert ends[1] < 0.5 * ends[0]


def test_reference_decides_what_the_pair_loss_starts_from(tmp_path: Path) -> None:
    """Round 2: with the previous policy as reference the loss starts at log 2 again, with the first one it does not."""
    flags = ["--iterate.select=best_worst", "--iterate.update=pair", "--dpo.beta=1.0"]
    losses = {
        how: metrics(run(tmp_path / how, *flags, f"--iterate.reference={how}"))[3]["rewards/margins"]
        for how in ("initial", "previous", "ema")
    }
    assert losses["previous"] == pytest.approx(0.0, abs=1e-6)
    assert abs(losses["initial"]) > 1e-3 and abs(losses["ema"]) > 1e-4


def test_round_files_say_what_was_labelled(tmp_path: Path) -> None:
    folder = run(tmp_path / "run")
    lines = [json.loads(x) for x in (folder / "stages/iterate/rounds/0.jsonl").read_text().splitlines()]
    assert len(lines) == 64 and set(lines[0]) == {"id", "key", "score", "answer"}
    mean = sum(line["score"] for line in lines) / 64
    assert metrics(folder)[0]["collect/reward"] == pytest.approx(mean, abs=1e-6)


def test_resumed_rounds_do_not_ask_the_judge_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmalign.engine.iterate.label import JudgeLabels

    folder = run(tmp_path / "run", *METHODS["self"])
    cut(folder, 5)

    def asked(*args: Any) -> Any:
        raise AssertionError("the judge was asked again")

    monkeypatch.setattr(JudgeLabels, "scores", asked)
    run(folder, *METHODS["self"])


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--iterate.select=best_worst"], "update: nll does not go with select: best_worst, only pair"),
        (["--iterate.select=data"], "label: reward does not go with select: data"),
        (["--iterate.select=threshold", "--iterate.threshold=99"], "selects no answer"),
        (["--iterate.label=judge"], "toy verifies facts but cannot compare two answers"),
        (
            [*METHODS["online-dpo"], "--dpo.loss_type=[aot]", "--iterate.per_device_train_batch_size=4"],
            "couples the pairs of a batch, so it must be 8",
        ),
        ([*METHODS["nash-md"], "--iterate.temperature=0.7"], "policy gradient at temperature 1"),
        ([*METHODS["nash-md"], "--iterate.length_penalty=0.1"], "nothing can be taken off"),
    ],
)
def test_bad_settings_get_one_sentence(tmp_path: Path, flags: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        run(tmp_path / "run", *flags)


@pytest.mark.parametrize(
    ("name", "slots"),
    [
        ("raft", ("reward", "best", "nll", "initial")),
        ("superhf", ("reward", "best", "superhf", "initial")),
        ("spin", ("data", "data_policy", "pair", "previous")),
        ("online-dpo", ("reward", "best_worst", "pair", "previous")),
        ("nash-md", ("reward", "all", "nash", "initial")),
        ("ift", ("data", "data", "ift", "initial")),
        ("self-rewarding", ("judge", "best_worst", "pair", "previous")),
    ],
)
def test_shipped_recipes_are_settings_of_the_one_loop(name: str, slots: tuple[str, ...]) -> None:
    cfg = load_config(name, [])
    loop = cfg.iterate
    assert cfg.stages == ("sft", "iterate", "evaluate", "report") and cfg.recipe == name
    assert (loop.label, loop.select, loop.update, loop.reference) == slots
    own = load_config(name, ["--model.model_name_or_path=mine", "--data.train=rows.jsonl"])
    assert own.model.lora_r == 16 and own.iterate.learning_rate == 1e-5
