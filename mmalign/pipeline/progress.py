"""Progress for people: a bar in a terminal, a line now and then in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["step_progress"]


@contextmanager
def step_progress(
    title: str, total: int, show: tuple[str, ...] = (), *, enabled: bool = True
) -> Iterator[Callable[[int, Mapping[str, float]], None]]:
    """Yield ``on_step(step, metrics)``; ``show`` names the metrics printed beside the bar."""
    if not enabled:
        yield lambda step, metrics: None
        return
    if not sys.stderr.isatty():
        yield _line_printer(title, total, show)
        return
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=total, note="")

        def on_step(step: int, metrics: Mapping[str, float]) -> None:
            progress.update(task, completed=step, note=_note(metrics, show))

        yield on_step


def _line_printer(
    title: str, total: int, show: tuple[str, ...]
) -> Callable[[int, Mapping[str, float]], None]:
    start = time.perf_counter()
    first: list[int] = []
    every = max(1, total // 5)

    def on_step(step: int, metrics: Mapping[str, float]) -> None:
        first.append(step) if not first else None
        if step % every == 0 or step == total:
            spent = time.perf_counter() - start
            left = spent / (step - first[0] + 1) * (total - step)
            print(
                f"{title} {step}/{total}  {spent:.0f} s, {left:.0f} s left  {_note(metrics, show)}",
                file=sys.stderr,
            )

    return on_step


def _note(metrics: Mapping[str, float], show: tuple[str, ...]) -> str:
    return "  ".join(f"{name} {metrics[name]:.3g}" for name in show if name in metrics)
