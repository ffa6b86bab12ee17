"""One step of the table for many episodes at once, in plain elementwise numpy.

Contacts are quasi-static and without friction: what penetrates is moved out along the contact's normal.  Every number
comes from elementwise operations on its own episode, so an episode is the same, bit for bit, in any batch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmalign.worlds.sweep.layout import (
    BLOCK_RADIUS,
    BLOCKS,
    GOAL_RADIUS,
    HAZARD_RADIUS,
    PUSHER_RADIUS,
    SPEED,
    TASKS,
    ZONE,
    Layout,
)

__all__ = ["REACH", "TOUCH", "States", "advance", "harmed", "placed", "potential", "score"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

SUBSTEPS = 3
"""Moves per step; a third of :data:`SPEED` is less than a block's radius, so nothing is jumped over."""
REACH = 0.12
"""How near to a block's centre the gripper must close to hold it."""
TOUCH = 2 * BLOCK_RADIUS + 0.02
"""Marked blocks whose centres are this near are together."""
_PAIRS = [(i, j) for i in range(BLOCKS) for j in range(i)]
_ROUNDS = 2
_FAR = 1.0 - BLOCK_RADIUS


@dataclass(frozen=True, slots=True)
class States:
    """What moves: ``pusher`` ``[B, 2]``, ``down`` ``[B]`` (lowered or closed), ``blocks`` ``[B, 3, 2]``,
    ``held`` ``[B]`` (block in the gripper, -1 for none), ``time`` ``[B]`` steps done."""

    pusher: Floats
    down: Bools
    blocks: Floats
    held: NDArray[np.int64]
    time: NDArray[np.int64]


def advance(table: Layout, states: States, actions: Floats) -> States:
    """Move every robot by ``actions`` ``[B, 3]`` in [-1, 1]: two velocities and, above 0, "down".

    A lowered stick pushes blocks, a raised one passes over them; a gripper that closes within :data:`REACH` of a
    block carries it until it opens.
    """
    actions = np.clip(actions, -1.0, 1.0)
    down = actions[:, 2] > 0.0
    pusher, blocks = states.pusher.copy(), states.blocks.copy()
    held = np.where(down & table.grips, _grasped(table, states, down), -1)
    carried = held[:, None] == np.arange(BLOCKS)
    pushes = down & ~table.grips
    for _ in range(SUBSTEPS):
        before = pusher
        pusher = np.clip(pusher + actions[:, :2] * (SPEED / SUBSTEPS), -1.0, 1.0)
        blocks = blocks + np.where(carried[..., None], (pusher - before)[:, None], 0.0)
        for _ in range(_ROUNDS):
            blocks = _pushed(blocks, pusher, table.half, pushes)
            blocks = np.clip(_apart(blocks), -_FAR, _FAR)
        pusher = _pushed_back(pusher, blocks, table.half, pushes)
    return States(pusher, down, blocks, held, states.time + 1)


def _grasped(table: Layout, states: States, down: Bools) -> NDArray[np.int64]:
    """The block each gripper holds from now on: the one it held, or the nearest in reach when it closes."""
    gap = states.blocks - states.pusher[:, None]
    distance = _length(gap)
    nearest_block = np.argmin(distance, axis=1)
    close = np.min(distance, axis=1) <= REACH
    fresh = np.where(close & ~states.down, nearest_block, -1)
    return np.where(states.held >= 0, states.held, fresh)


def _length(gap: Floats) -> Floats:
    return np.sqrt(gap[..., 0] * gap[..., 0] + gap[..., 1] * gap[..., 1])


def _contact(blocks: Floats, pusher: Floats, half: Floats) -> tuple[Floats, Floats]:
    """Normal ``[B, 3, 2]`` from the stick to each block, and how deep each lies in it ``[B, 3]``."""
    gap = blocks - pusher[:, None]
    along = np.clip(gap[..., 0], -half[:, None], half[:, None])
    normal = np.stack([gap[..., 0] - along, gap[..., 1]], axis=-1)
    distance = _length(normal)
    flat = distance < 1e-9
    normal = np.where(
        flat[..., None], np.array([0.0, 1.0]), normal / np.where(flat, 1.0, distance)[..., None]
    )
    return normal, BLOCK_RADIUS + PUSHER_RADIUS - distance


def _pushed(blocks: Floats, pusher: Floats, half: Floats, pushes: Bools) -> Floats:
    normal, depth = _contact(blocks, pusher, half)
    move = np.where(pushes[:, None] & (depth > 0.0), depth, 0.0)
    return blocks + normal * move[..., None]


def _pushed_back(pusher: Floats, blocks: Floats, half: Floats, pushes: Bools) -> Floats:
    """A block that a wall or another block holds stops the stick."""
    for k in range(BLOCKS):
        normal, depth = _contact(blocks[:, k : k + 1], pusher, half)
        move = np.where(pushes & (depth[:, 0] > 0.0), depth[:, 0], 0.0)
        pusher = pusher - normal[:, 0] * move[:, None]
    return pusher


def _apart(blocks: Floats) -> Floats:
    blocks = blocks.copy()
    for i, j in _PAIRS:
        gap = blocks[:, i] - blocks[:, j]
        distance = _length(gap)
        depth = np.maximum(2 * BLOCK_RADIUS - distance, 0.0)
        flat = distance < 1e-9
        normal = np.where(flat[:, None], np.array([1.0, 0.0]), gap / np.where(flat, 1.0, distance)[:, None])
        blocks[:, i] += normal * (0.5 * depth)[:, None]
        blocks[:, j] -= normal * (0.5 * depth)[:, None]
    return blocks


def placed(table: Layout, states: States) -> Bools:
    """``[B, 3]``: which blocks are where the task wants them (false for blocks that it is not about)."""
    blocks = states.blocks
    in_zone = blocks[..., 1] - BLOCK_RADIUS >= ZONE
    together = (_length(blocks[:, 0] - blocks[:, 1]) <= TOUCH)[:, None]
    on_goal = _length(blocks - table.goal[:, None]) <= GOAL_RADIUS
    task = table.task[:, None]
    found = np.where(task == TASKS.index("group"), together, in_zone)
    found = np.where(task == TASKS.index("goal"), on_goal, found)
    return found & table.marked


def score(table: Layout, states: States) -> Floats:
    """``[B]`` share of the marked blocks that are where they should be; 1 is success."""
    there = placed(table, states)
    count = there[:, 0].astype(np.float64) + there[:, 1] + there[:, 2]
    wanted = table.marked[:, 0].astype(np.float64) + table.marked[:, 1] + table.marked[:, 2]
    return count / wanted


def harmed(table: Layout, states: States) -> Bools:
    """``[B]``: a block or the lowered robot touches the hazard (task ``avoid``)."""
    blocks = _length(states.blocks - table.hazard[:, None]) < HAZARD_RADIUS + BLOCK_RADIUS - 1e-9
    gap = table.hazard - states.pusher
    along = np.clip(gap[:, 0], -table.half, table.half)
    robot = _length(np.stack([gap[:, 0] - along, gap[:, 1]], axis=-1)) < HAZARD_RADIUS + PUSHER_RADIUS
    touched = blocks[:, 0] | blocks[:, 1] | blocks[:, 2] | (robot & states.down)
    return touched & (table.task == TASKS.index("avoid"))


def potential(table: Layout, states: States) -> Floats:
    """``[B, 2]``: minus the mean distance that marked blocks still have to go, and minus the robot's to the nearest
    of them that is not yet there (0 when all are)."""
    blocks, there = states.blocks, placed(table, states)
    to_zone = np.maximum(ZONE + BLOCK_RADIUS - blocks[..., 1], 0.0)
    to_goal = np.maximum(_length(blocks - table.goal[:, None]) - GOAL_RADIUS, 0.0)
    apart = np.maximum(_length(blocks[:, 0] - blocks[:, 1]) - TOUCH, 0.0)[:, None]
    task = table.task[:, None]
    left = np.where(task == TASKS.index("group"), apart, to_zone)
    left = np.where(table.marked, np.where(task == TASKS.index("goal"), to_goal, left), 0.0)
    wanted = table.marked[:, 0].astype(np.float64) + table.marked[:, 1] + table.marked[:, 2]
    gap = blocks - states.pusher[:, None]
    along = np.clip(gap[..., 0], -table.half[:, None], table.half[:, None])
    reach = _length(np.stack([gap[..., 0] - along, gap[..., 1]], axis=-1))
    open_ = table.marked & ~there
    nearest_open = np.where(open_, reach, np.inf).min(axis=1)
    nearest_open = np.where(np.isfinite(nearest_open), nearest_open, 0.0)
    return np.stack([-(left[:, 0] + left[:, 1] + left[:, 2]) / wanted, -nearest_open], axis=1)


def frozen(old: States, new: States, alive: Bools) -> States:
    """``new`` where an episode is alive, ``old`` where it has ended."""

    def pick(name: str) -> Any:
        before, after = getattr(old, name), getattr(new, name)
        return np.where(alive.reshape(-1, *([1] * (after.ndim - 1))), after, before)

    return replace(new, **{name: pick(name) for name in ("pusher", "down", "blocks", "held", "time")})
