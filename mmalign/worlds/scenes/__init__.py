"""The scenes world: pictures of shapes, a closed caption grammar, and the exact truth about both."""

from __future__ import annotations

from pathlib import Path

from mmalign.worlds.scenes.captions import CaptionNoise, caption, short_caption
from mmalign.worlds.scenes.data import pope, rows, scene_at
from mmalign.worlds.scenes.facts import (
    FACT_TYPES,
    Fact,
    attribute_fact,
    count_fact,
    object_fact,
    relation_fact,
    true_facts,
    verify,
)
from mmalign.worlds.scenes.grammar import Sentence, parse
from mmalign.worlds.scenes.questions import (
    POPE_KINDS,
    Question,
    ask,
    ask_many,
    co_occurrence,
)
from mmalign.worlds.scenes.render import render
from mmalign.worlds.scenes.scene import SPLITS, Scene, SceneObject, generate
from mmalign.worlds.scenes.words import CAPTION_PROMPT, CLEAN_PROMPT

BASES = (Path(__file__).parent / "base", Path(__file__).parent / "base1")
"""Folders of the two shipped starting models; both load with the Auto classes."""
READERS = {"reader": Path(__file__).parent / "reader"}
"""Starts of reward models that can read text in their prompt: the first base after ``scripts/train_reader.py``."""

__all__ = [
    "BASES",
    "CAPTION_PROMPT",
    "CLEAN_PROMPT",
    "FACT_TYPES",
    "POPE_KINDS",
    "READERS",
    "SPLITS",
    "CaptionNoise",
    "Fact",
    "Question",
    "Scene",
    "SceneObject",
    "Sentence",
    "ask",
    "ask_many",
    "attribute_fact",
    "caption",
    "co_occurrence",
    "count_fact",
    "generate",
    "object_fact",
    "parse",
    "pope",
    "relation_fact",
    "render",
    "rows",
    "scene_at",
    "short_caption",
    "true_facts",
    "verify",
]
