"""Reading what the arms left on disk: one number per arm, metric, start and seed.

A metric's name is ``task@mode/metric`` (``scenes-captions@greedy/length``), as the folders below
``evals`` are called, ``train/<name>`` of a training stage, or ``measured/<name>`` of what an arm's job
left in ``measured.json``; only files are read, so verdicts can be made again at any time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmalign.claims.definition import Arm, Claim
from mmalign.data.jsonl import read_json
from mmalign.data.results import read_results, read_samples
from mmalign.errors import UserError, nearest

__all__ = ["TRAINING", "Cell", "PerStart", "Results", "cell_folder", "training_stage"]

TRAINING = ("kl", "entropy", "rewards/mean", "completion_length", "segments")
"""Training metrics that count among an arm's numbers, as ``train/<name>``."""
LAST = 5
"""How many last steps they are the mean of (of stage ``iterate`` the last round alone)."""

PerStart = Mapping[str, Sequence[float]]
"""One number per start and seed, seeds in the same order for every start."""


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One start with one seed: the unit that arms are paired in."""

    start: str
    seed: int


def cell_folder(root: Path, cell: Cell) -> Path:
    """The folder that holds a cell's arms."""
    return root / f"{cell.start}-seed{cell.seed}"


def training_stage(arm: Arm) -> str | None:
    """The stage of an arm whose training metrics are shown, where it has one."""
    return next(
        (
            name
            for name in ("ppo", "grpo", "dpo", "pathwise", "iterate", "offline_rl", "transfer")
            if name in arm.stages
        ),
        None,
    )


class Results:
    """The finished arms of a claim below ``root``.

    Args:
        claim: the definition.
        root: ``run_claim``'s output folder.
        seeds: the seeds, in order.
        quick: whether arms that ``--quick`` leaves out are missing.
    """

    def __init__(self, claim: Claim, root: Path, seeds: Sequence[int], quick: bool = False) -> None:
        self.quick = quick
        self.claim = claim
        self.root = root
        self.seeds = tuple(seeds)
        self._metrics: dict[tuple[Cell, str], dict[str, float | None]] = {}

    def arms(self) -> list[Arm]:
        """The arms that ran."""
        return [arm for arm in self.claim.arms if arm.quick or not self.quick]

    def cells(self, arm: str) -> list[Cell]:
        """The cells in which the arm runs."""
        limit = self.claim.arm(arm).first_seeds
        seeds = self.seeds if limit is None else self.seeds[:limit]
        return [Cell(start, seed) for start in self.claim.starts for seed in seeds]

    def shared_cells(self, arm: str, other: str) -> list[Cell]:
        """The cells in which both arms run."""
        theirs = set(self.cells(other))
        return [cell for cell in self.cells(arm) if cell in theirs]

    def folder(self, arm: str, cell: Cell) -> Path:
        """The run folder of an arm."""
        return cell_folder(self.root, cell) / arm

    def metrics(self, arm: str, cell: Cell) -> dict[str, float | None]:
        """Every metric of one arm's evaluations in one cell."""
        key = (cell, arm)
        if key not in self._metrics:
            found: dict[str, float | None] = {}
            for folder in self.evaluations(arm, cell):
                for name, entry in read_results(folder)["metrics"].items():
                    found[f"{folder.name}/{name}"] = entry["value"]
            found |= self._training(arm, cell)
            found |= self._measured(arm, cell)
            self._metrics[key] = found
        return self._metrics[key]

    def evaluations(self, arm: str, cell: Cell) -> list[Path]:
        """The arm's own evaluation folders: the trained policy's where there is one, else the start's."""
        top = self.folder(arm, cell) / "evals"
        names = sorted(path.name for path in top.glob("*") if path.is_dir())
        own = [name for name in names if name != "sft"] or names
        if len(own) > 1:
            raise UserError(f"{top}: holds several policies {own}; expected one besides sft")
        return sorted(path.parent for name in own for path in (top / name).glob("*/results.json"))

    def value(self, arm: str, metric: str, cell: Cell) -> float:
        """One number.

        Raises:
            UserError: when the arm has no such metric, or its value is undefined (0/0).
        """
        known = self.metrics(arm, cell)
        if metric not in known:
            raise UserError(f"{self.folder(arm, cell)}: has no metric {metric!r}{nearest(metric, known)}")
        value = known[metric]
        if value is None:
            raise UserError(f"{self.folder(arm, cell)}: {metric} is undefined (nothing to count)")
        return float(value)

    def per_start(self, arm: str, metric: str) -> dict[str, list[float]]:
        """The metric per start and seed."""
        result: dict[str, list[float]] = {}
        for cell in self.cells(arm):
            result.setdefault(cell.start, []).append(self.value(arm, metric, cell))
        return result

    def change(
        self,
        arm: str,
        baseline: str,
        metric: str,
        *,
        relative: bool = False,
        baseline_metric: str | None = None,
    ) -> dict[str, list[float]]:
        """``arm - baseline`` per start and seed, paired by both; relative to the baseline where asked.

        Args:
            arm: the treated arm; the pairs are the cells in which both arms run.
            baseline: the arm it is held against.
            metric: of both arms; a task's (``task@T1/name``) on the same test ids (checked).
            relative: divide by the baseline's value; a baseline of 0 gives 0 for no change, else inf.
            baseline_metric: the baseline's metric, where it has another name.

        Raises:
            UserError: when the two arms answered different test rows.
        """
        other = baseline_metric or metric
        result: dict[str, list[float]] = {}
        for cell in self.shared_cells(arm, baseline):
            self._same_ids(arm, metric, baseline, other, cell)
            before, after = self.value(baseline, other, cell), self.value(arm, metric, cell)
            difference = after - before
            if relative:
                difference = _relative(difference, before)
            result.setdefault(cell.start, []).append(difference)
        return result

    def samples(self, arm: str, evaluation: str, cell: Cell) -> list[dict[str, Any]]:
        """The samples of one evaluation, for example ``scenes-captions@greedy``."""
        for folder in self.evaluations(arm, cell):
            if folder.name == evaluation:
                return read_samples(folder)
        raise UserError(f"{self.folder(arm, cell)}: has no evaluation {evaluation!r}")

    def curve(self, arm: str, stage: str, metric: str, cell: Cell) -> list[float]:
        """A training metric over steps, from ``metrics.jsonl``."""
        found = {
            r["step"]: float(r[metric])
            for r in self.records(arm, cell)
            if r["stage"] == stage and metric in r
        }
        return [found[step] for step in sorted(found)]

    def steps(self, arm: str, stage: str, cell: Cell) -> int:
        """How many steps of a stage the arm recorded."""
        return len({r["step"] for r in self.records(arm, cell) if r["stage"] == stage})

    def records(self, arm: str, cell: Cell) -> Iterator[dict[str, Any]]:
        """The lines of the arm's ``metrics.jsonl``."""
        file = self.folder(arm, cell) / "metrics.jsonl"
        if file.is_file():
            for line in file.read_text(encoding="utf-8").splitlines():
                yield json.loads(line)

    def document(self, arm: str, relative: str, cell: Cell) -> dict[str, Any]:
        """A JSON file of the arm's run folder.

        Raises:
            UserError: when it does not exist.
        """
        file = self.folder(arm, cell) / relative
        if not file.is_file():
            raise UserError(f"{file} does not exist")
        content: dict[str, Any] = read_json(file)
        return content

    def _training(self, arm: str, cell: Cell) -> dict[str, float | None]:
        """Training metrics as means of the last steps: ``train/kl`` is where the policy ended up."""
        stage = training_stage(self.claim.arm(arm))
        lines = {name: self.curve(arm, stage, name, cell) for name in TRAINING} if stage else {}
        last = 1 if stage == "iterate" else LAST  # its points are held-out measurements, one per round
        return {f"train/{n}": math.fsum(v[-last:]) / len(v[-last:]) for n, v in lines.items() if v}

    def _measured(self, arm: str, cell: Cell) -> dict[str, float | None]:
        """Numbers that the arm's job left in ``measured.json``, where there is one."""
        file = self.folder(arm, cell) / "measured.json"
        found: dict[str, float] = read_json(file) if file.is_file() else {}
        return {f"measured/{name}": float(value) for name, value in found.items()}

    def _same_ids(self, arm: str, metric: str, baseline: str, other: str, cell: Cell) -> None:
        if "@" not in metric:  # what training or a job measured: no rows to compare
            return
        ids = [
            [sample["id"] for sample in self.samples(name, full.partition("/")[0], cell)]
            for name, full in ((arm, metric), (baseline, other))
        ]
        if ids[0] != ids[1]:
            raise UserError(
                f"{self.folder(arm, cell)}: {metric} was measured on other rows than {baseline}'s {other}"
            )


def _relative(difference: float, before: float) -> float:
    if before:
        return difference / before
    return math.copysign(math.inf, difference) if difference else 0.0
