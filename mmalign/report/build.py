"""Writing ``report.html`` and ``MODEL_CARD.md`` into a run folder."""

from __future__ import annotations

import os
from pathlib import Path

from mmalign.report.card import model_card
from mmalign.report.collect import collect
from mmalign.report.html import render

__all__ = ["build_report"]


def build_report(run_dir: Path) -> Path:
    """Write one self-contained ``report.html`` (and ``MODEL_CARD.md``) and return its path.

    The same files give the same bytes, whenever and however often it is called.

    Raises:
        UserError: when the folder holds nothing to show.
    """
    run = collect(Path(run_dir))
    _write(run.folder / "MODEL_CARD.md", model_card(run))
    target = run.folder / "report.html"
    _write(target, render(run))
    return target


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
