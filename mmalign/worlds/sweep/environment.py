"""The table as an environment: many episodes stepped together, each ending by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmalign.worlds.sweep.layout import BLOCKS, EMBODIMENTS, TASKS, Layout, Start, layout
from mmalign.worlds.sweep.physics import States, advance, frozen, harmed, placed, potential, score
from mmalign.worlds.sweep.render import render

__all__ = [
    "ACTION_SIZE",
    "MAX_STEPS",
    "OBSERVATION_SIZE",
    "Step",
    "SweepBatch",
    "observe",
    "packed",
    "unpacked",
]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

MAX_STEPS = 80
"""Time limit of an episode, in steps."""
ACTION_SIZE = 3
"""Two velocities and "down", each in [-1, 1]."""
OBSERVATION_SIZE = 2 + 4 + 2 * BLOCKS + 2 * BLOCKS + BLOCKS + BLOCKS + 2 + 2 + len(TASKS) + 1
"""Numbers in a vector observation; see :func:`observe`."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one step gave, each ``[B]`` (``observation`` ``[B, D]``, ``potential`` ``[B, 2]``).

    ``terminated`` is true where the task ended the episode (success, or the hazard was touched), ``truncated`` where
    the time limit did; never both.  An episode that has ended stays as it is and earns nothing.
    """

    observation: NDArray[np.float32]
    reward: Floats
    terminated: Bools
    truncated: Bools
    success: Bools
    potential: Floats


class SweepBatch:
    """``B`` episodes that are stepped together.

    Args:
        starts: how each episode begins.
        max_steps: time limit.
        stop_on_success: end an episode as soon as it succeeds; otherwise it goes on to the time limit, and what was
            reached can be lost again.
    """

    def __init__(
        self, starts: Sequence[Start], *, max_steps: int = MAX_STEPS, stop_on_success: bool = True
    ) -> None:
        self.starts, self.max_steps, self.stop_on_success = tuple(starts), max_steps, stop_on_success
        self.table: Layout = layout(self.starts)
        self.states: States
        self.ended: Bools

    def __len__(self) -> int:
        return len(self.starts)

    def reset(self) -> NDArray[np.float32]:
        """Put everything back to the starts; the first observation ``[B, D]``."""
        table, n = self.table, len(self)
        self.states = States(
            table.pusher.copy(),
            np.zeros(n, dtype=bool),
            table.blocks.copy(),
            np.full(n, -1),
            np.zeros(n, dtype=np.int64),
        )
        self.ended = np.zeros(n, dtype=bool)
        return observe(table, self.states, self.max_steps)

    def restore(self, left: Sequence[Sequence[float] | None]) -> NDArray[np.float32]:
        """After :meth:`reset`: put robot and blocks where an earlier episode left them, clock at 0, nothing held.

        Args:
            left: per episode a packed state (:func:`packed`), or ``None`` to stay at the start.

        Raises:
            ValueError: when there is not one entry per episode.
        """
        if len(left) != len(self):
            raise ValueError(f"{len(left)} states for {len(self)} episodes")
        record = packed(self.states)
        for k, state in enumerate(left):
            if state is not None:
                record[k] = np.asarray(state, dtype=np.float32)
        record[:, -2:] = 0.0
        made, given = unpacked(record), np.array([state is not None for state in left])
        self.states = frozen(self.states, made, given)
        return observe(self.table, self.states, self.max_steps)

    def step(self, actions: NDArray[np.floating]) -> Step:
        """Move by ``actions`` ``[B, 3]``; the reward is the change of the share of blocks in place.

        Raises:
            ValueError: for actions of another shape, or that are not finite.
        """
        wide: Floats = np.asarray(actions, dtype=np.float64)
        if wide.shape != (len(self), ACTION_SIZE):
            raise ValueError(f"actions have shape {wide.shape}, expected ({len(self)}, {ACTION_SIZE})")
        if not np.isfinite(wide).all():
            raise ValueError("an action is not finite")
        before, alive = score(self.table, self.states), ~self.ended
        self.states = frozen(self.states, advance(self.table, self.states, wide), alive)
        now = score(self.table, self.states)
        success, harm = now >= 1.0, harmed(self.table, self.states)
        terminated = alive & (harm | (success & self.stop_on_success))
        truncated = alive & ~terminated & (self.states.time >= self.max_steps)
        self.ended = self.ended | terminated | truncated
        return Step(
            observe(self.table, self.states, self.max_steps),
            np.where(alive, now - before, 0.0),
            terminated,
            truncated,
            success & ~harm,
            potential(self.table, self.states),
        )

    def frames(self) -> NDArray[np.uint8]:
        """Pictures ``[B, 64, 64, 3]`` of the table as it is now."""
        return render(self.table, self.states)


def observe(table: Layout, states: States, max_steps: int) -> NDArray[np.float32]:
    """Vector observation ``[B, 33]``: robot, blocks, what the task wants, and the share of the time that is gone.

    In this order: robot's place (2), lowered, holding, half length, gripper; the blocks' places (6) and their places
    seen from the robot (6); marked (3); in place (3); goal (2); hazard (2); task (4); time (1).
    """
    n = len(table)
    flags = np.stack([states.down, states.held >= 0], axis=1)
    body = np.stack([table.half / max(EMBODIMENTS.values()), table.grips], axis=1)
    kind = table.task[:, None] == np.arange(len(TASKS))
    parts = [
        states.pusher,
        flags,
        body,
        states.blocks.reshape(n, 2 * BLOCKS),
        (states.blocks - states.pusher[:, None]).reshape(n, 2 * BLOCKS),
        table.marked,
        placed(table, states),
        table.goal,
        table.hazard,
        kind,
        (states.time / max_steps)[:, None],
    ]
    return np.concatenate([np.asarray(part, dtype=np.float32) for part in parts], axis=1)


def packed(states: States) -> NDArray[np.float32]:
    """States as rows ``[B, 10]`` of an episode's record, enough to draw them again."""
    n = len(states.time)
    numbers = [
        states.pusher,
        states.blocks.reshape(n, 2 * BLOCKS),
        states.down[:, None],
        states.time[:, None],
    ]
    return np.concatenate([np.asarray(part, dtype=np.float32) for part in numbers], axis=1)


def unpacked(record: NDArray[np.float32]) -> States:
    """The states of :func:`packed`, at single precision; which block is held is not kept."""
    n = len(record)
    wide = record.astype(np.float64)
    return States(
        wide[:, :2],
        wide[:, 8] > 0.5,
        wide[:, 2:8].reshape(n, BLOCKS, 2),
        np.full(n, -1),
        np.rint(wide[:, 9]).astype(np.int64),
    )
