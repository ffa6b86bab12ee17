"""Running the cells of a claim in worker processes, with progress and an honest time estimate."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from mmalign.claims.definition import Claim
from mmalign.claims.results import Cell, cell_folder
from mmalign.claims.worker import arm_marker
from mmalign.errors import UserError

__all__ = ["Schedule", "run_cells", "time_left"]

_POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Schedule:
    """What has to run: cells in order, each with its seed's place among the seeds."""

    name: str
    claim: Claim
    cells: tuple[tuple[Cell, int], ...]
    root: Path
    quick: bool = False

    def weights(self) -> dict[tuple[Cell, str], float]:
        """Cost of every arm of every cell."""
        return {
            (cell, arm.name): arm.weight
            for cell, index in self.cells
            for arm in self.claim.arms_for(index, self.quick)
        }

    def finished(self) -> set[tuple[Cell, str]]:
        """The arms that have finished."""
        return {key for key in self.weights() if arm_marker(self.root, *key).is_file()}


def run_cells(schedule: Schedule, workers: int, console: Console | None = None) -> None:
    """Run all cells, ``workers`` at a time; returns when every arm has finished.

    A cell that fails does not stop the others.

    Raises:
        UserError: when a cell failed, with its last words; the same command tries it again.
    """
    shown = console or Console(stderr=True)
    waiting = [item for item in schedule.cells if _unfinished(schedule, item)]
    running: dict[Cell, subprocess.Popen[bytes]] = {}
    failed: list[str] = []
    try:
        with _progress(schedule, shown) as refresh:
            while waiting or running:
                while waiting and len(running) < max(1, workers):
                    cell, index = waiting.pop(0)
                    running[cell] = _start(schedule, cell, index)
                time.sleep(_POLL_SECONDS)
                for cell, process in list(running.items()):
                    if process.poll() is not None:
                        del running[cell]
                        if process.returncode:
                            failed.append(_last_words(schedule, cell, process.returncode))
                refresh(list(running))
    finally:
        _stop(list(running.values()))
    if failed:
        more = f" ({len(failed) - 1} more cells failed)" if len(failed) > 1 else ""
        raise UserError(
            f"claim {schedule.name}: {failed[0]}{more}; the same command goes on with what is missing"
        )


def time_left(total: float, before: float, now: float, seconds: float) -> float | None:
    """Seconds left: what is left of the weight at the pace of this session; ``None`` before there is a pace.

    Args:
        total: weight of all arms.
        before: weight that was finished when this session began.
        now: weight finished now.
        seconds: how long this session has run.
    """
    if now <= before:
        return None
    return (total - now) * seconds / (now - before)


def _unfinished(schedule: Schedule, item: tuple[Cell, int]) -> bool:
    cell, index = item
    return any(
        not arm_marker(schedule.root, cell, arm.name).is_file()
        for arm in schedule.claim.arms_for(index, schedule.quick)
    )


def _start(schedule: Schedule, cell: Cell, index: int) -> subprocess.Popen[bytes]:
    folder = cell_folder(schedule.root, cell)
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "mmalign.claims.worker", "--claim", schedule.name, "--start", cell.start]
    command += ["--seed", str(cell.seed), "--seed_index", str(index), "--output_dir", str(schedule.root)]
    command += ["--arms", ",".join(arm.name for arm in schedule.claim.arms)]
    command += ["--parent", str(os.getpid()), *(["--quick"] if schedule.quick else [])]
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": paths,
    }
    with open(folder / "log.txt", "ab") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
        )


def _last_words(schedule: Schedule, cell: Cell, status: int) -> str:
    log = cell_folder(schedule.root, cell) / "log.txt"
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    said = lines[-1].removeprefix("error: ") if lines else f"exit status {status}"
    return f"{cell.start} with seed {cell.seed} failed: {said} (see {log})"


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Interrupt the workers (a training stage finishes and saves its step first), then insist."""
    for process in processes:
        process.send_signal(signal.SIGINT)
    for process in processes:
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def _progress(schedule: Schedule, console: Console) -> Iterator[_Refresh]:
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[done]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield _Refresh(schedule, progress, console.file if not console.is_terminal else None)


class _Refresh:
    """Updates the bar; without a terminal, prints a line per finished arm."""

    def __init__(self, schedule: Schedule, progress: Progress, lines: IO[str] | None) -> None:
        self._schedule, self._progress, self._lines = schedule, progress, lines
        self._weights = schedule.weights()
        self._began = time.perf_counter()
        self._known = schedule.finished()
        self._before = self._weight(self._known)
        self._task = progress.add_task(schedule.name, total=sum(self._weights.values()), done="", note="")
        self(())

    def __call__(self, running: Sequence[Cell]) -> None:
        """Look at the folders and show where things stand."""
        finished = self._schedule.finished()
        left = self._note(finished)
        count = f"{len(finished)}/{len(self._weights)} arms"
        now = ", ".join(
            f"{cell.start} seed {cell.seed}: {_current(self._schedule, cell)}" for cell in running
        )
        self._progress.update(self._task, completed=self._weight(finished), done=count, note=f"{left}  {now}")
        if self._lines is not None:
            for cell, arm in sorted(finished - self._known):
                print(
                    f"{cell.start} seed {cell.seed}: {arm} done, {count}, {left}",
                    file=self._lines,
                    flush=True,
                )
        self._known = finished

    def _note(self, finished: set[tuple[Cell, str]]) -> str:
        total, spent = sum(self._weights.values()), time.perf_counter() - self._began
        left = time_left(total, self._before, self._weight(finished), spent)
        if left is None:
            return "time left: known after the first arm"
        return f"about {left / 60:.0f} min left" if left >= 90 else f"about {left:.0f} s left"

    def _weight(self, arms: set[tuple[Cell, str]]) -> float:
        return sum(self._weights[key] for key in arms)


def _current(schedule: Schedule, cell: Cell) -> str:
    file = cell_folder(schedule.root, cell) / "now.json"
    return str(json.loads(file.read_text(encoding="utf-8"))["arm"]) if file.is_file() else "starting"
