"""Feedback: atomic facts, judges who verify them, and the collection that survives being killed."""

from __future__ import annotations

from mmalign.feedback.facts import Extractor, Fact, SceneExtractor
from mmalign.feedback.labels import judge_row, label_rows, type_labels

__all__ = ["Extractor", "Fact", "SceneExtractor", "judge_row", "label_rows", "type_labels"]
