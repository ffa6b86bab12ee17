"""Stage ``report``: one self-contained HTML file and a model card, from the run folder's files alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmalign.report.build import build_report

if TYPE_CHECKING:
    from mmalign.pipeline.context import RunContext

__all__ = ["run"]


def run(ctx: RunContext) -> None:
    """Write ``report.html``.  Never marked done: it is cheap and always reflects the files."""
    if ctx.cfg.report.enabled and ctx.accelerator.is_main_process:
        build_report(ctx.run_dir)
