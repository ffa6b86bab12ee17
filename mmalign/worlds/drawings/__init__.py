"""The drawings world: prompts for small pictures of shapes, and the exact truth about what was drawn.

It speaks the words and facts of the scenes world the other way round: there a picture is described, here a description
is drawn.  Importing it needs neither torch nor diffusers; the trained parts live in modules of their own.
"""

from __future__ import annotations

from pathlib import Path

from mmalign.worlds.drawings.data import FLAWS, ROW_KINDS, flawed, flaws_of, rows
from mmalign.worlds.drawings.detect import DETECTORS, detect, pixels_of
from mmalign.worlds.drawings.prompts import (
    PROMPT_KINDS,
    THINGS,
    Wish,
    draw_wish,
    pairs,
    read_prompt,
    wishes,
)
from mmalign.worlds.drawings.scene import SIDE, bound, draw, draw_array, scene_for, stands
from mmalign.worlds.drawings.templates import Reading, match_templates
from mmalign.worlds.drawings.verdict import agreement, judge

BASES = (Path(__file__).parent / "base",)
"""Folder of the shipped pipeline; ``DrawingPipeline.from_pretrained`` loads it."""
CLIP = Path(__file__).parent / "clip"
"""Folder of the shipped open_clip model that scores pictures against prompts (``local-dir:``)."""

__all__ = [
    "BASES",
    "CLIP",
    "DETECTORS",
    "FLAWS",
    "PROMPT_KINDS",
    "ROW_KINDS",
    "SIDE",
    "THINGS",
    "Reading",
    "Wish",
    "agreement",
    "bound",
    "detect",
    "draw",
    "draw_array",
    "draw_wish",
    "flawed",
    "flaws_of",
    "judge",
    "match_templates",
    "pairs",
    "pixels_of",
    "read_prompt",
    "rows",
    "scene_for",
    "stands",
    "wishes",
]
