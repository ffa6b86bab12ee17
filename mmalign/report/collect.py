"""Reading a run folder.  Everything is optional: a report of a half-finished run shows what is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mmalign.data.jsonl import read_json, read_jsonl
from mmalign.data.results import read_results, read_samples
from mmalign.errors import UserError

__all__ = ["BEFORE", "Evaluation", "Run", "collect"]

BEFORE = "sft"
"""The arm that counts as the start where it exists."""


@dataclass(frozen=True)
class Evaluation:
    """One task under one arm: its folder, its results and (read when asked for) its samples."""

    arm: str
    name: str
    folder: Path
    results: Mapping[str, Any]

    @property
    def task(self) -> str:
        """The task's registered name."""
        return str(self.results.get("task") or self.name.partition("@")[0])

    @property
    def setting(self) -> str:
        """How answers were drawn, in words: greedy, or sampled at a temperature."""
        name = self.name.partition("@")[2]
        temperature = (self.results.get("generation") or {}).get("temperature")
        if name == "greedy" or temperature == 0:
            return "greedy"
        if temperature is None and name.startswith("T") and name[1:].replace(".", "").isdigit():
            temperature = float(name[1:])
        return name or "answers given" if temperature is None else f"sampled at T = {temperature:g}"

    @cached_property
    def samples(self) -> list[dict[str, Any]]:
        """The evidence, one record per id."""
        return read_samples(self.folder)


@dataclass(frozen=True)
class Run:
    """What a run folder holds.

    Args:
        folder: the run folder.
        config: the text of ``config.yaml``.
        env: ``env.json``: command, versions, device.
        curves: stage -> metric records in order.
        evals: task name with setting -> arm -> evaluation; arms in the order they were made.
        quality: ``reward_model`` and ``judge`` quality by type.
        labels: counts of feedback labels.
        claim: ``claim.json``.
        stages: stage -> the facts of its ``done.json``.
        transfer: the results of stage ``transfer``.
    """

    folder: Path
    config: str = ""
    env: Mapping[str, Any] = field(default_factory=dict)
    curves: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)
    evals: Mapping[str, Mapping[str, Evaluation]] = field(default_factory=dict)
    quality: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    labels: Mapping[str, Any] = field(default_factory=dict)
    claim: Mapping[str, Any] = field(default_factory=dict)
    stages: Mapping[str, Any] = field(default_factory=dict)
    transfer: Mapping[str, Any] = field(default_factory=dict)

    @property
    def arms(self) -> list[str]:
        """Every arm, the start first."""
        return list(dict.fromkeys(arm for found in self.evals.values() for arm in found))

    @property
    def before(self) -> str | None:
        """The arm training started from."""
        return self.arms[0] if self.arms else None

    @property
    def after(self) -> str | None:
        """The last trained arm, or None where only the start was evaluated."""
        return self.arms[-1] if len(self.arms) > 1 else None


def collect(run_dir: Path) -> Run:
    """Read a run folder.

    Raises:
        UserError: when the folder does not exist or holds nothing a report could show.
    """
    folder = Path(run_dir)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; expected a run folder such as runs/demo")
    quality = {
        name: found
        for name, path in {
            "reward_model": folder / "stages" / "reward_model" / "quality.json",
            "judge": folder / "feedback" / "quality.json",
        }.items()
        if (found := _json(path))
    }
    config = folder / "config.yaml"
    run = Run(
        folder=folder,
        config=config.read_text(encoding="utf-8") if config.is_file() else "",
        env=_json(folder / "env.json"),
        curves=_curves(folder / "metrics.jsonl"),
        evals=_evaluations(folder / "evals", _json(folder / "config.json").get("stages") or []),
        quality=quality,
        labels=_json(folder / "feedback" / "counts.json"),
        claim=_json(folder / "claim.json"),
        stages={path.parent.name: _json(path) for path in sorted(folder.glob("stages/*/done.json"))},
        transfer=_json(folder / "stages" / "transfer" / "results.json"),
    )
    if not (run.evals or run.curves or run.claim):
        raise UserError(
            f"{folder} holds no evals, metrics.jsonl or claim.json; run or evaluate something first"
        )
    return run


def _json(path: Path) -> dict[str, Any]:
    return dict(read_json(path)) if path.is_file() else {}


def _curves(path: Path) -> dict[str, list[dict[str, Any]]]:
    stages: dict[str, list[dict[str, Any]]] = {}
    for record in read_jsonl(path) if path.is_file() else []:
        stages.setdefault(str(record.get("stage", "train")), []).append(record)
    return stages


def _evaluations(folder: Path, stages: list[str]) -> dict[str, dict[str, Evaluation]]:
    """Evaluations by task and arm; arms in the order of the recipe's stages, unknown ones by name."""
    place = {stage: number for number, stage in enumerate(stages)}
    arms = sorted(
        {path.parent.parent.name for path in folder.glob("*/*/results.json")},
        key=lambda arm: (arm != BEFORE, place.get(arm, len(place)), arm),
    )
    found: dict[str, dict[str, Evaluation]] = {}
    for arm in arms:
        for path in sorted((folder / arm).glob("*/results.json"), key=lambda path: _order(path.parent.name)):
            name = path.parent.name
            found.setdefault(name, {})[arm] = Evaluation(arm, name, path.parent, read_results(path))
    return dict(sorted(found.items(), key=lambda item: _order(item[0])))


def _order(name: str) -> tuple[str, bool, str]:
    task, _, setting = name.partition("@")
    return (task, setting != "greedy", setting)
