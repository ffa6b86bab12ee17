"""Progress of an evaluation: a bar in a terminal, a line now and then in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["bar"]

Show = bool | Callable[[int, int], None]
"""True or False for the built-in display, or a function called with ``(done, total)``."""


@contextmanager
def bar(title: str, total: int, progress: Show = True) -> Iterator[Callable[[int], None]]:
    """Yield ``advance(count)``, which shows progress on the error stream or calls ``progress``."""
    if callable(progress):
        yield _counter(total, progress)
    elif not progress:
        yield lambda count: None
    elif not sys.stderr.isatty():
        yield _counter(total, _printer(title))
    else:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True)) as display:
            handle = display.add_task(title, total=total)
            yield lambda count: display.update(handle, advance=count)


def _counter(total: int, report: Callable[[int, int], None]) -> Callable[[int], None]:
    done = [0]

    def advance(count: int) -> None:
        done[0] += count
        if count:
            report(done[0], total)

    return advance


def _printer(title: str) -> Callable[[int, int], None]:
    start = time.perf_counter()
    shown = [start]

    def report(done: int, total: int) -> None:
        now = time.perf_counter()
        if done == total or now - shown[0] > 10:
            shown[0] = now
            print(f"{title} {done}/{total}  {now - start:.0f} s", file=sys.stderr)

    return report
