"""What stands on the table: tasks, embodiments, and where a start puts everything.

The table is the square from -1 to 1 on both axes, ``y`` pointing away from the robot.  A **start** is a task, an
embodiment and a seed; everything else about the beginning of an episode follows from these three.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmalign.errors import UserError, nearest
from mmalign.rng import numpy_generator

__all__ = [
    "BACK",
    "BLOCKS",
    "BLOCK_RADIUS",
    "EMBODIMENTS",
    "GOAL_RADIUS",
    "HAZARD_RADIUS",
    "PATCHES",
    "PUSHER_RADIUS",
    "SPEED",
    "TASKS",
    "ZONE",
    "Layout",
    "Start",
    "layout",
]

Floats = NDArray[np.float64]

TASKS = ("sweep", "avoid", "group", "goal")
"""``sweep``: every block into the zone at the far edge.  ``avoid``: the same, and nothing may touch the hazard.
``group``: bring the two marked blocks together.  ``goal``: push the marked block onto the goal."""
EMBODIMENTS = {"short": 0.08, "medium": 0.2, "long": 0.36, "gripper": 0.0}
"""Half length of the stick; the gripper is no stick, it carries the block it closes on."""
BLOCKS = 3
"""Blocks on the table; they are round, and drawn so."""
BLOCK_RADIUS, PUSHER_RADIUS, GOAL_RADIUS, HAZARD_RADIUS = 0.08, 0.04, 0.15, 0.2
ZONE = 0.55
"""The zone is ``y >= ZONE``; a block counts when it lies in it entirely."""
SPEED = 0.1
"""Longest move of the robot in one step, per axis."""
BACK = 2**31
"""Seeds from here on are the way back (task ``goal``): blocks begin where goals lie, and the goal lies where blocks
begin.  No split holds such a start; learning without resets alternates."""
PATCHES = 2
"""Coloured patches that only distract: they move on their own and touch nothing."""

_HAZARD_X = 0.55
_WAY = 0.55
_TRIES = 200


@dataclass(frozen=True, slots=True)
class Start:
    """The beginning of one episode.

    Raises:
        UserError: when task or embodiment is unknown.
    """

    task: str
    embodiment: str
    seed: int

    def __post_init__(self) -> None:
        for what, name, known in (("task", self.task, TASKS), ("embodiment", self.embodiment, EMBODIMENTS)):
            if name not in known:
                raise UserError(
                    f"sweep: {what} {name!r} is not one of {', '.join(known)}{nearest(name, known)}"
                )

    def __str__(self) -> str:
        return f"{self.task} {self.embodiment} {self.seed}"

    @classmethod
    def parse(cls, text: str) -> Start:
        """Read ``"sweep short 17"`` back.

        Raises:
            UserError: when the text is not a task, an embodiment and a number.
        """
        parts = text.split()
        if len(parts) != 3 or not parts[2].isdigit():
            raise UserError(f'sweep: expected "TASK EMBODIMENT SEED" as a start, found {text!r}')
        return cls(parts[0], parts[1], int(parts[2]))


@dataclass(frozen=True, slots=True)
class Layout:
    """The starts of ``B`` episodes as arrays.

    Args:
        task: ``[B]`` index into :data:`TASKS`.
        half: ``[B]`` half length of the stick.
        grips: ``[B]`` bool, true for the gripper.
        pusher: ``[B, 2]`` where the robot begins.
        blocks: ``[B, 3, 2]`` where the blocks begin.
        marked: ``[B, 3]`` bool, the blocks that the task is about.
        goal: ``[B, 2]`` centre of the goal (task ``goal``; elsewhere 0).
        hazard: ``[B, 2]`` centre of the hazard (task ``avoid``; elsewhere 0).
        patches: ``[B, 2, 4]`` place and velocity of the distractors.
        tints: ``[B, 2, 3]`` their colours, 0 to 255.
    """

    task: NDArray[np.int64]
    half: Floats
    grips: NDArray[np.bool_]
    pusher: Floats
    blocks: Floats
    marked: NDArray[np.bool_]
    goal: Floats
    hazard: Floats
    patches: Floats
    tints: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.task)


def layout(starts: Sequence[Start]) -> Layout:
    """Where everything stands at the beginning of each episode; an episode never depends on its neighbours."""
    made = [_one(start) for start in starts]
    columns = {name: np.stack([one[name] for one in made]) for name in made[0]}
    return Layout(**columns)


def _one(start: Start) -> dict[str, NDArray[np.generic]]:
    rng = numpy_generator(start.seed, "sweep", start.task, start.embodiment)
    side = 1.0 if rng.random() < 0.5 else -1.0
    hazard = np.array([side * _HAZARD_X, rng.uniform(0.0, 0.3)])
    goal = np.array([rng.uniform(-0.5, 0.5), rng.uniform(0.2, 0.6)])
    blocks = _scatter(start.task, goal, side, rng)
    if start.task == "goal" and start.seed >= BACK:
        goal, blocks = goal - np.array([0.0, _WAY]), blocks + np.array([0.0, 0.5 * _WAY])
    marked = {"group": [True, True, False], "goal": [True, False, False]}.get(start.task, [True] * BLOCKS)
    velocity = rng.uniform(-0.06, 0.06, (PATCHES, 2))
    return {
        "task": np.array(TASKS.index(start.task)),
        "half": np.array(EMBODIMENTS[start.embodiment]),
        "grips": np.array(start.embodiment == "gripper"),
        "pusher": np.array([rng.uniform(-0.5, 0.5), rng.uniform(-0.85, -0.65)]),
        "blocks": blocks,
        "marked": np.array(marked),
        "goal": goal if start.task == "goal" else np.zeros(2),
        "hazard": hazard if start.task == "avoid" else np.zeros(2),
        "patches": np.concatenate([rng.uniform(-0.9, 0.9, (PATCHES, 2)), velocity], axis=1),
        "tints": rng.integers(40, 256, (PATCHES, 3)).astype(np.uint8),
    }


def _scatter(task: str, goal: Floats, side: float, rng: np.random.Generator) -> Floats:
    """Blocks that lie apart from each other, off the goal and out of the hazard's lane."""
    low, high = (-0.7, 0.7) if task == "sweep" else (-0.5, 0.5)
    if task == "avoid":
        edge = _HAZARD_X - HAZARD_RADIUS - BLOCK_RADIUS - 0.08
        low, high = (-0.7, edge) if side > 0 else (-edge, 0.7)
    least = 0.35 if task == "group" else 2 * BLOCK_RADIUS + 0.04
    for _ in range(_TRIES):
        found = np.stack([rng.uniform(low, high, BLOCKS), rng.uniform(-0.35, 0.3, BLOCKS)], axis=1)
        gaps = [np.hypot(*(found[i] - found[j])) for i in range(BLOCKS) for j in range(i)]
        clear = task != "goal" or np.hypot(*(found[0] - goal)) > GOAL_RADIUS + 0.15
        if min(gaps) >= least and clear:
            return found
    raise RuntimeError(f"no place found for the blocks of task {task} in {_TRIES} draws")
