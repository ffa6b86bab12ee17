"""What a run ends with on the terminal: the table of its evaluations, and where its report lies."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["show_outcome"]


def show_outcome(folder: Path, *, every_task: bool = False) -> None:
    """Print a run's before and after, if it evaluated anything, and its report or folder; under a launcher once.

    Args:
        folder: the run's.
        every_task: all tasks instead of the first alone.
    """
    if os.environ.get("RANK", "0") != "0":
        return
    if any((folder / "evals").glob("*/*/results.json")):
        from mmalign.console import table_console
        from mmalign.report.headline import headline_table

        table_console().print(headline_table(folder, every_task=every_task))
    page = folder / "report.html"
    print(f"report: {page}" if page.is_file() else f"run folder: {folder}")
