"""The registry reads names without importing, loads one by one, and survives broken plug-ins."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from mmalign import registry
from mmalign.errors import UserError


@dataclass
class Point:
    name: str
    value: str
    package: str = "third-party"

    @property
    def dist(self) -> SimpleNamespace:
        return SimpleNamespace(name=self.package)


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Point]]:
    points = [
        Point("good", "mmalign.testing.policies:ToyReward"),
        Point("broken", "no_such_package_here:Thing"),
        Point("lacking", "mmalign.errors:NoSuchName"),
        Point("twice", "mmalign.errors:nearest", "package-a"),
        Point("twice", "mmalign.errors:UserError", "package-b"),
    ]
    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda *, group: points if group == "mmalign.rewards" else []
    )
    registry.clear()
    yield points
    registry.clear()


def test_names_are_read_without_importing(plugins: list[Point]) -> None:
    sys.modules.pop("no_such_package_here", None)
    assert registry.names("rewards") == ["broken", "good", "lacking", "twice"]


def test_a_good_plugin_loads_beside_broken_ones(plugins: list[Point]) -> None:
    assert registry.load("rewards", "good").__name__ == "ToyReward"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("broken", "third-party.*no_such_package_here"),
        ("lacking", "NoSuchName"),
        ("twice", "package-a.*and package-b"),
        ("god", 'did you mean "good"'),
    ],
)
def test_failures_are_one_sentence(plugins: list[Point], name: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        registry.load("rewards", name)


def test_an_unknown_name_is_said_with_the_key_that_asked_for_it(plugins: list[Point]) -> None:
    with pytest.raises(
        UserError, match=r'^reward\.name: god: no such name under rewards \(did you mean "good"'
    ):
        registry.load("rewards", "god", key="reward.name")


def test_status_reports_each_plugin_on_its_own(plugins: list[Point]) -> None:
    problems = {name: problem for name, _, problem in registry.status("rewards")}
    assert problems["good"] is None
    assert all(problems[name] for name in ("broken", "lacking", "twice"))


def test_unknown_group() -> None:
    with pytest.raises(UserError, match='did you mean "rewards"'):
        registry.names("reward")


def test_built_ins_are_registered() -> None:
    assert "vision" in registry.names("modalities")
    assert "tensorboard" in registry.names("trackers")
    assert registry.load("modalities", "toy")().name == "toy"


def test_every_built_in_loads() -> None:
    failed = {
        f"{group}/{name}": problem
        for group in registry.GROUPS
        for name, package, problem in registry.status(group)
        if problem and package == "mmalign"
    }
    assert not failed
