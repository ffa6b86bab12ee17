"""Evaluation: tasks, named parsers, a resumable sampling loop, and results derived from samples alone."""

from __future__ import annotations

from mmalign.data.results import metric, read_results, read_samples
from mmalign.evals.cache import ResponseCache
from mmalign.evals.parser import Parsed, Parser, pick_parser
from mmalign.evals.run import evaluate, score_outputs
from mmalign.evals.store import rebuild, rescore
from mmalign.evals.task import load_task

__all__ = [
    "Parsed",
    "Parser",
    "ResponseCache",
    "evaluate",
    "load_task",
    "metric",
    "pick_parser",
    "read_results",
    "read_samples",
    "rebuild",
    "rescore",
    "score_outputs",
]
