"""Scripted experts: one controller per embodiment, told by the task where blocks belong, with flaws one can set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from mmalign.rng import derive_seed, numpy_generator
from mmalign.worlds.sweep.environment import MAX_STEPS, SweepBatch, packed
from mmalign.worlds.sweep.episode import Episode
from mmalign.worlds.sweep.layout import (
    BLOCK_RADIUS,
    HAZARD_RADIUS,
    PUSHER_RADIUS,
    SPEED,
    TASKS,
    ZONE,
    Layout,
    Start,
)
from mmalign.worlds.sweep.physics import TOUCH, States, placed, potential
from mmalign.worlds.sweep.recorder import Recorder

__all__ = ["PERFECT", "Skill", "act", "play"]

Floats = NDArray[np.float64]

_CONTACT = BLOCK_RADIUS + PUSHER_RADIUS
_GAP, _RUN, _ALIGNED, _GRASP = 0.02, 0.1, 0.05, 0.08


@dataclass(frozen=True, slots=True)
class Skill:
    """What an expert does worse than it could.

    Args:
        noise: standard deviation added to each velocity, in units of full speed.
        aim: standard deviation of an error in where it believes the blocks to be, drawn once per episode and axis.
        pause: share of the steps in which it does nothing.
    """

    noise: float = 0.0
    aim: float = 0.0
    pause: float = 0.0


PERFECT = Skill()
"""No flaw."""


def play(
    starts: Sequence[Start], *, skill: Skill = PERFECT, seed: int = 0, max_steps: int = MAX_STEPS
) -> list[Episode]:
    """Play every start to its end with the expert; an episode depends on ``seed`` and its own start alone."""
    env = SweepBatch(starts, max_steps=max_steps)
    streams = [numpy_generator(derive_seed(seed, "expert", str(start))) for start in starts]
    errors = np.stack([rng.normal(0.0, 1.0, 2) * skill.aim for rng in streams])
    recorder = Recorder()
    recorder.begin(env.reset(), potential=potential(env.table, env.states), states=packed(env.states))
    while not env.ended.all():
        wanted = np.stack([act(env.table, env.states, k, errors[k]) for k in range(len(env))])
        shake = np.stack([rng.normal(0.0, 1.0, 2) for rng in streams]) * skill.noise
        idle = np.array([rng.random() for rng in streams]) < skill.pause
        wanted[:, :2] = np.where(idle[:, None], 0.0, wanted[:, :2] + shake)
        actions, alive = np.clip(wanted, -1.0, 1.0), ~env.ended
        made = env.step(actions)
        recorder.add(
            alive,
            actions,
            made.reward,
            success=made.success,
            terminated=made.terminated,
            truncated=made.truncated,
            observation=made.observation,
            potential=made.potential,
            states=packed(env.states),
        )
    return recorder.episodes([asdict(start) for start in starts])


def act(table: Layout, states: States, k: int, error: Floats | None = None) -> Floats:
    """The expert's action ``[3]`` in episode ``k``; ``error`` ``[2]`` shifts where it believes the blocks to be.

    It travels raised to where it wants to begin, stands still to lower (or close), and then pushes (or carries) until
    the block is in place or slips away.
    """
    pusher, held, down = states.pusher[k], int(states.held[k]), bool(states.down[k])
    blocks = states.blocks[k] + (0.0 if error is None else error)
    task, half = TASKS[int(table.task[k])], float(table.half[k])
    todo = [int(i) for i in np.flatnonzero(table.marked[k] & ~placed(table, states)[k])]
    if not todo:
        return np.array([0.0, 0.0, -1.0])
    if table.grips[k]:
        there = _destination(task, table.goal[k], blocks, held)
        return _carry(pusher, blocks, held, todo, there, down)
    if task in ("sweep", "avoid"):
        hazard = table.hazard[k] if task == "avoid" else None
        return _sweep(pusher, blocks, todo, half, hazard, down)
    return _shove(pusher, blocks[0], _destination(task, table.goal[k], blocks, 0), half, down)


def _destination(task: str, goal: Floats, blocks: Floats, moved: int) -> Floats:
    if task == "goal":
        return goal
    if task == "group":
        return blocks[1 if moved != 1 else 0]
    column = blocks[max(moved, 0), 0]
    return np.array([column, ZONE + BLOCK_RADIUS + 0.06])


def _to(pusher: Floats, there: Floats, within: tuple[float, float]) -> Floats:
    """Travel raised; stand still and lower where both coordinates are ``within`` reach of ``there``."""
    gap = there - pusher
    if abs(gap[0]) <= within[0] and abs(gap[1]) <= within[1]:
        return np.array([0.0, 0.0, 1.0])
    step = np.clip(gap / SPEED, -1.0, 1.0)
    return np.array([step[0], step[1], -1.0])


def _carry(
    pusher: Floats, blocks: Floats, held: int, todo: Sequence[int], there: Floats, down: bool
) -> Floats:
    """Close on the nearest block that is not in place, carry it there and open."""
    if held >= 0:
        step = np.clip((there - blocks[held]) / SPEED, -1.0, 1.0)
        return np.array([step[0], step[1], 1.0 if held in todo else -1.0])
    if down:
        return np.array([0.0, 0.0, -1.0])
    near = min(todo, key=lambda i: float(np.hypot(*(blocks[i] - pusher))))
    return _to(pusher, blocks[near], (_GRASP, _GRASP))


def _sweep(
    pusher: Floats, blocks: Floats, todo: Sequence[int], half: float, hazard: Floats | None, down: bool
) -> Floats:
    """Get below as many blocks as the stick covers and push them straight up."""
    if down:
        ahead = [
            i for i in todo if abs(blocks[i, 0] - pusher[0]) <= half + _CONTACT and blocks[i, 1] > pusher[1]
        ]
        if not ahead:
            return np.array([0.0, 0.0, -1.0])
        off = float(blocks[min(ahead, key=lambda i: blocks[i, 1]), 0] - pusher[0])
        aside = float(np.clip(np.sign(off) * max(abs(off) - 0.5 * half, 0.0) / SPEED, -1.0, 1.0))
        return np.array([aside if hazard is None else 0.0, 1.0, 1.0])
    x = _column(pusher, blocks, todo, half, hazard)
    covered = [i for i in todo if abs(blocks[i, 0] - x) <= half + 0.5 * PUSHER_RADIUS]
    below = min(float(blocks[i, 1]) for i in covered or todo) - _CONTACT
    low = min(float(pusher[1]), below - _RUN)
    within = 2 * _GAP if hazard is not None else max(_ALIGNED, 0.3 * half)
    return _to(pusher, np.array([x, low]), (within, _RUN - _GAP))


def _column(pusher: Floats, blocks: Floats, todo: Sequence[int], half: float, hazard: Floats | None) -> float:
    """Where to put the stick's middle: over the most blocks, clear of the hazard, with the least travel."""
    reach = max(half - 0.02, 0.0)
    spots = [float(blocks[i, 0]) for i in todo]
    spots += [0.5 * (a + b) for a in spots for b in spots if a < b]
    best, best_key = spots[0], (-1, 0.0)
    for spot in spots:
        x = spot
        if hazard is not None:
            clear = HAZARD_RADIUS + PUSHER_RADIUS + half + 3 * _GAP
            x = min(x, hazard[0] - clear) if hazard[0] > 0 else max(x, hazard[0] + clear)
        covered = sum(abs(float(blocks[i, 0]) - x) <= reach + 1e-9 for i in todo)
        key = (covered, -abs(x - float(pusher[0])))
        if key > best_key:
            best, best_key = x, key
    return best


def _shove(pusher: Floats, block: Floats, there: Floats, half: float, down: bool) -> Floats:
    """Push one block sideways with the stick's end until the column is right, then with its face."""
    gap, away = there - block, block - pusher
    if down:
        beside = abs(away[1]) < 0.5 * _CONTACT
        along = 0 if beside else 1
        limit = half + _CONTACT if beside else _CONTACT
        slipped = abs(away[along]) > limit + 2 * _RUN or away[along] * gap[along] <= 0.0
        slipped = slipped or (not beside and abs(away[0]) > half + PUSHER_RADIUS)
        if slipped or (beside and abs(gap[0]) <= _ALIGNED):
            return np.array([0.0, 0.0, -1.0])
        aim = np.array([gap[0], away[1]]) if beside else np.array([away[0], gap[1]])
        aim[along] += np.sign(aim[along]) * max(abs(away[along]) - limit, 0.0)
        step = np.clip(aim / SPEED, -1.0, 1.0)
        return np.array([step[0], step[1], 1.0])
    if abs(gap[0]) > 2 * _ALIGNED or (abs(gap[0]) > _ALIGNED and abs(gap[1]) < TOUCH):
        side = 1.0 if gap[0] > 0 else -1.0
        behind = np.array([block[0] - side * (half + _CONTACT + _RUN), block[1]])
        return _to(pusher, behind, (_RUN - _GAP, _ALIGNED))
    side = 1.0 if gap[1] > 0 else -1.0
    return _to(pusher, np.array([block[0], block[1] - side * (_CONTACT + _RUN)]), (_ALIGNED, _RUN - _GAP))
