from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mmalign import registry
from mmalign.errors import UserError
from mmalign.protocols import Tracker


def test_tensorboard_writes_what_it_was_given(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = registry.load("trackers", "tensorboard")(tmp_path)
    assert isinstance(tracker, Tracker)
    for step in (1, 2):
        tracker.log({"ppo/kl": step / 10}, step)
    tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, round(e.value, 5)) for e in events.Scalars("ppo/kl")] == [(1, 0.1), (2, 0.2)]


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_an_absent_package_gives_the_install_line(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        UserError, match=f"report_to: {name} needs the package {name}.* -m pip install {name}"
    ):
        registry.load("trackers", name)(tmp_path)


class Recorder:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def init(self, **options: Any) -> Recorder:
        self.calls.append(("init", options))
        return self

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.calls.append(("define", name, step_metric))

    def log(self, metrics: dict[str, float]) -> None:
        self.calls.append(("log", metrics))

    def finish(self) -> None:
        self.calls.append(("finish",))


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_stages_keep_their_own_steps_and_a_folder_its_run(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recorder = Recorder()
    module = SimpleNamespace(init=recorder.init, log=recorder.log, finish=recorder.finish)
    monkeypatch.setitem(sys.modules, name, module)
    identities = []
    for _ in range(2):
        tracker = registry.load("trackers", name)(tmp_path)
        tracker.log({"sft/loss": 1.0}, 5)
        tracker.close()
        first = recorder.calls[0][1]
        identities.append(first.get("id", first["name"]))
        assert first["resume"] == "allow"
        assert ("log", {"sft/loss": 1.0, "sft/step": 5}) in recorder.calls
        assert recorder.calls[-1] == ("finish",)
        recorder.calls.clear()
    assert identities[0] == identities[1]
