"""The terminal that tables are printed on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["table_console"]


_WIDTH = 128
"""Columns that the widest table needs."""


def table_console() -> Console:
    """The terminal, but never narrower than a table needs, so that no column is cut off (a log file counts as 80)."""
    from rich.console import Console

    found = Console()
    return found if found.width >= _WIDTH else Console(width=_WIDTH)
