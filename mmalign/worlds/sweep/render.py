"""The software renderer: 64 x 64 pixels of the table, the same bytes for the same state on any machine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmalign.worlds.sweep.layout import (
    BLOCK_RADIUS,
    BLOCKS,
    GOAL_RADIUS,
    HAZARD_RADIUS,
    PATCHES,
    PUSHER_RADIUS,
    TASKS,
    ZONE,
    Layout,
)
from mmalign.worlds.sweep.physics import States

__all__ = ["SIDE", "render", "repeated"]

Floats = NDArray[np.float64]

SIDE = 64
"""Width and height of a picture in pixels."""
_FLOOR, _ZONE, _GOAL, _HAZARD = (236, 233, 226), (190, 220, 190), (170, 200, 235), (240, 170, 160)
_MARKED, _PLAIN = (200, 60, 50), (150, 150, 150)
_UP, _DOWN = (120, 120, 160), (30, 30, 70)
_PATCH_HALF = 0.13

_CENTRES = (np.arange(SIDE) + 0.5) * (2.0 / SIDE) - 1.0
_X, _Y = _CENTRES[None, None, :], -_CENTRES[None, :, None]


def render(table: Layout, states: States) -> NDArray[np.uint8]:
    """Pictures ``[B, 64, 64, 3]``: zone, goal or hazard, distractors, blocks (marked ones red) and the robot."""
    n = len(table)
    canvas = np.empty((n, SIDE, SIDE, 3), dtype=np.uint8)
    canvas[:] = _FLOOR
    task = table.task
    zoned = (task == TASKS.index("sweep")) | (task == TASKS.index("avoid"))
    _paint(canvas, (_Y >= ZONE) & zoned[:, None, None], _ZONE)
    goal = _disc(table.goal, GOAL_RADIUS) & (task == TASKS.index("goal"))[:, None, None]
    _paint(canvas, goal, _GOAL)
    hazard = _disc(table.hazard, HAZARD_RADIUS) & (task == TASKS.index("avoid"))[:, None, None]
    _paint(canvas, hazard, _HAZARD)
    for k in range(PATCHES):
        centre = _drifted(table.patches[:, k], states.time)
        canvas = np.where(_square(centre)[..., None], table.tints[:, k, None, None], canvas)
    for k in range(BLOCKS):
        inside, mark = _disc(states.blocks[:, k], BLOCK_RADIUS), table.marked[:, k, None, None]
        _paint(canvas, inside & mark, _MARKED)
        _paint(canvas, inside & ~mark, _PLAIN)
    robot = _capsule(states.pusher, table.half + np.where(table.grips, 0.02, 0.0), PUSHER_RADIUS)
    down = states.down[:, None, None]
    _paint(canvas, robot & down, _DOWN)
    _paint(canvas, robot & ~down, _UP)
    return canvas


def repeated(table: Layout, n: int) -> Layout:
    """The layout of one episode, ``n`` times: to draw an episode's states in one call."""
    columns = {name: np.repeat(getattr(table, name), n, axis=0) for name in table.__dataclass_fields__}
    return Layout(**columns)


def _paint(canvas: NDArray[np.uint8], inside: NDArray[np.bool_], color: tuple[int, int, int]) -> None:
    canvas[np.broadcast_to(inside, canvas.shape[:3])] = color


def _disc(centre: Floats, radius: float) -> NDArray[np.bool_]:
    dx, dy = _X - centre[:, 0, None, None], _Y - centre[:, 1, None, None]
    return dx * dx + dy * dy <= radius * radius


def _square(centre: Floats) -> NDArray[np.bool_]:
    dx, dy = np.abs(_X - centre[:, 0, None, None]), np.abs(_Y - centre[:, 1, None, None])
    return (dx <= _PATCH_HALF) & (dy <= _PATCH_HALF)


def _capsule(centre: Floats, half: Floats, radius: float) -> NDArray[np.bool_]:
    dx, dy = _X - centre[:, 0, None, None], _Y - centre[:, 1, None, None]
    along = np.clip(dx, -half[:, None, None], half[:, None, None])
    return (dx - along) ** 2 + dy * dy <= radius * radius


def _drifted(patch: Floats, time: NDArray[np.int64]) -> Floats:
    """Where a distractor is: it moves at constant speed and turns back at the edges."""
    path = patch[:, :2] + patch[:, 2:] * time[:, None] + 1.0
    fold = np.mod(path, 4.0)
    return np.where(fold > 2.0, 4.0 - fold, fold) - 1.0
