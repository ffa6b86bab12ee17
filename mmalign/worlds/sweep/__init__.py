"""The sweep world: a table with blocks, four embodiments, four tasks, and the exact truth about success."""

from __future__ import annotations

from mmalign.worlds.seeds import BASES
from mmalign.worlds.sweep.data import (
    DEMONSTRATOR,
    HELD_OUT,
    READERS,
    ROW_KINDS,
    SEGMENT_STEPS,
    SPLITS,
    progress,
    rows,
    segment_pairs,
    starts,
)
from mmalign.worlds.sweep.environment import (
    ACTION_SIZE,
    MAX_STEPS,
    OBSERVATION_SIZE,
    Step,
    SweepBatch,
    observe,
    packed,
    unpacked,
)
from mmalign.worlds.sweep.episode import Episode
from mmalign.worlds.sweep.experts import PERFECT, Skill, act, play
from mmalign.worlds.sweep.gymnasium_env import sweep_env
from mmalign.worlds.sweep.layout import BACK, EMBODIMENTS, TASKS, Layout, Start, layout
from mmalign.worlds.sweep.physics import States, advance, harmed, placed, potential, score
from mmalign.worlds.sweep.recorder import Recorder
from mmalign.worlds.sweep.render import SIDE, render, repeated

__all__ = [
    "ACTION_SIZE",
    "BACK",
    "BASES",
    "DEMONSTRATOR",
    "EMBODIMENTS",
    "HELD_OUT",
    "MAX_STEPS",
    "OBSERVATION_SIZE",
    "PERFECT",
    "READERS",
    "ROW_KINDS",
    "SEGMENT_STEPS",
    "SIDE",
    "SPLITS",
    "TASKS",
    "Episode",
    "Layout",
    "Recorder",
    "Skill",
    "Start",
    "States",
    "Step",
    "SweepBatch",
    "act",
    "advance",
    "harmed",
    "layout",
    "observe",
    "packed",
    "placed",
    "play",
    "potential",
    "progress",
    "render",
    "repeated",
    "rows",
    "score",
    "segment_pairs",
    "starts",
    "sweep_env",
    "unpacked",
]
