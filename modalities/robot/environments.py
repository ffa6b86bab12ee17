"""Environments as batches of episodes: the sweep world, or gymnasium's by id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mmalign.errors import UserError
from mmalign.modalities.robot.options import RobotOptions
from mmalign.types import Row
from mmalign.worlds import sweep

__all__ = ["Environment", "Moment", "Space", "SweepEnvironment", "sweep_start"]

Bools = NDArray[np.bool_]

LEFT = "left"
"""Key of a row's ``meta``: the packed state in which an earlier episode left the table."""


@dataclass(frozen=True)
class Space:
    """What a policy must fit.

    Args:
        observation: shape of one observation, ``(D,)`` or ``(H, W, 3)``.
        actions: numbers per action, each in [-1, 1].
        choices: where an action is one of so many choices, evenly laid out over [-1, 1].
        center, scale: ``[D]``, bring vectors to about [-1, 1].
    """

    observation: tuple[int, ...]
    actions: int
    choices: int | None = None
    center: NDArray[np.float32] | None = None
    scale: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Moment:
    """What stepping a batch gave; all ``[B]`` but ``observation`` ``[B, ...]``, ``potential`` ``[B, K]``,
    ``states`` ``[B, S]`` and ``pixels`` ``[B, H, W, 3]``, of which the last three may be missing."""

    observation: NDArray[Any]
    reward: NDArray[np.float64]
    terminated: Bools
    truncated: Bools
    success: Bools
    potential: NDArray[np.float64] | None = None
    states: NDArray[np.float32] | None = None
    pixels: NDArray[np.uint8] | None = None


class Environment(Protocol):
    """A batch of episodes; those that have ended stay as they are."""

    space: Space
    limit: int

    def reset(self, rows: Sequence[Row]) -> Moment:
        """Begin one episode per row."""
        ...

    def step(self, actions: NDArray[np.float32], alive: Bools) -> Moment:
        """Take ``actions`` ``[B, A]`` in [-1, 1] where episodes are alive."""
        ...

    def starts(self) -> list[Mapping[str, Any]]:
        """What it takes to begin each episode again."""
        ...


def sweep_start(row: Row, embodiment: str | None = None) -> sweep.Start:
    """The start a row's prompt describes, with another embodiment where one is given.

    Raises:
        UserError: when the prompt is no start.
    """
    if not isinstance(row.prompt, str):
        raise UserError(f'row {row.id}: expected a start such as "sweep short 17" as prompt')
    start = sweep.Start.parse(row.prompt)
    return start if embodiment is None else sweep.Start(start.task, embodiment, start.seed)


class SweepEnvironment:
    """The sweep world, seen as vectors or pixels."""

    def __init__(self, options: RobotOptions) -> None:
        self.options = options
        self.limit = options.max_episode_steps or sweep.MAX_STEPS
        shape = (sweep.OBSERVATION_SIZE,) if options.observe == "vector" else (sweep.SIDE, sweep.SIDE, 3)
        self.space = Space(shape, sweep.ACTION_SIZE)
        self.batch: sweep.SweepBatch

    def reset(self, rows: Sequence[Row]) -> Moment:
        """Begin one episode per row."""
        starts = [sweep_start(row, self.options.embodiment) for row in rows]
        self.batch = sweep.SweepBatch(
            starts, max_steps=self.limit, stop_on_success=self.options.stop_on_success
        )
        n, vector = len(rows), self.batch.reset()
        left = [row.meta.get(LEFT) for row in rows]
        if any(state is not None for state in left):
            vector = self.batch.restore(left)
        none = np.zeros(n, dtype=bool)
        return self._moment(vector, np.zeros(n), none, none, none)

    def step(self, actions: NDArray[np.float32], alive: Bools) -> Moment:
        """Take ``actions`` ``[B, 3]``; the world itself knows which episodes are alive."""
        del alive
        made = self.batch.step(actions)
        return self._moment(made.observation, made.reward, made.terminated, made.truncated, made.success)

    def starts(self) -> list[Mapping[str, Any]]:
        """Task, embodiment and seed of each episode."""
        return [{"task": s.task, "embodiment": s.embodiment, "seed": s.seed} for s in self.batch.starts]

    def _moment(
        self,
        vector: NDArray[np.float32],
        reward: NDArray[np.float64],
        ended: Bools,
        cut: Bools,
        success: Bools,
    ) -> Moment:
        batch = self.batch
        seen = vector if self.options.observe == "vector" else batch.frames()
        return Moment(
            seen,
            reward,
            ended,
            cut,
            success,
            sweep.potential(batch.table, batch.states),
            sweep.packed(batch.states),
        )
