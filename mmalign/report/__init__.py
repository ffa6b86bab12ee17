"""Reports from the files of a run, without torch: a page, a terminal table, a comparison, a model card."""

from __future__ import annotations

from mmalign.report.build import build_report
from mmalign.report.card import model_card
from mmalign.report.compare import compare_runs
from mmalign.report.headline import headline_table

__all__ = ["build_report", "compare_runs", "headline_table", "model_card"]
