"""Rolling a batch of episodes with a policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmalign.modalities.robot.environments import Environment, Moment
from mmalign.modalities.robot.noise import Noise
from mmalign.modalities.robot.policy import RobotPolicy
from mmalign.modalities.robot.steps import Decisions
from mmalign.types import Rollout, Row
from mmalign.worlds.sweep import Recorder

__all__ = ["roll"]


@dataclass
class _Log:
    """What the policy saw and drew, a list entry per decision."""

    observations: list[Tensor]
    drawn: list[Tensor]
    logp: list[Tensor]
    decided: list[NDArray[np.bool_]]
    taken: list[NDArray[np.int64]]


@torch.no_grad()
def roll(
    model: RobotPolicy,
    environment: Environment,
    rows: Sequence[Row],
    n: int,
    noise: Noise,
    *,
    temperature: float,
    max_steps: int,
) -> Rollout:
    """Roll ``n`` episodes per row until all have ended or ``max_steps`` answer steps are done."""
    rows = [row for row in rows for _ in range(n)]
    device = next(model.parameters()).device
    recorder, substeps = Recorder(), model.head.substeps
    moment = environment.reset(rows)
    recorder.begin(moment.observation, potential=moment.potential, states=moment.states, pixels=moment.pixels)
    alive = np.ones(len(rows), dtype=bool)
    log = _Log([torch.from_numpy(moment.observation)], [], [], [], [])
    for _ in range(max(max_steps // substeps, 1)):
        features, _ = model.trunk(log.observations[-1].to(device))
        drawn = model.head.draw(features, noise, temperature)
        log.drawn.append(drawn.record.cpu())
        log.logp.append(drawn.logp.cpu())
        log.decided.append(alive.copy())
        actions = drawn.actions.cpu().numpy()
        moment, alive, taken = _carry_out(environment, recorder, actions, moment, alive)
        log.taken.append(taken)
        log.observations.append(torch.from_numpy(moment.observation))
        if not alive.any():
            break
    return _rollout(rows, n, recorder, environment, log, substeps)


def _carry_out(
    environment: Environment,
    recorder: Recorder,
    chunk: NDArray[np.float32],
    moment: Moment,
    alive: NDArray[np.bool_],
) -> tuple[Moment, NDArray[np.bool_], NDArray[np.int64]]:
    """Take the chunk's actions ``[B, C, A]`` one after the other; how many each episode took."""
    taken = np.zeros(len(alive), dtype=np.int64)
    for place in range(chunk.shape[1]):
        if not alive.any():
            break
        moment = environment.step(chunk[:, place], alive)
        recorder.add(
            alive,
            chunk[:, place],
            moment.reward,
            success=moment.success,
            terminated=moment.terminated,
            truncated=moment.truncated,
            observation=moment.observation,
            potential=moment.potential,
            states=moment.states,
            pixels=moment.pixels,
        )
        taken += alive
        alive = alive & ~moment.terminated & ~moment.truncated
    return moment, alive, taken


def _rollout(
    rows: Sequence[Row], n: int, recorder: Recorder, environment: Environment, log: _Log, substeps: int
) -> Rollout:
    episodes = recorder.episodes(environment.starts(), cut=True)
    decided, taken = np.stack(log.decided), np.stack(log.taken)
    observations, drawn = torch.stack(log.observations, 1), torch.stack(log.drawn, 1)
    mask = torch.from_numpy(decided.T.copy()).repeat_interleave(substeps, dim=1)
    logp = torch.where(mask, torch.cat(log.logp, 1), 0.0)
    answered = []
    for k, (row, episode) in enumerate(zip(rows, episodes, strict=True)):
        depth = int(decided[:, k].sum())
        last = np.repeat((np.arange(depth) + 1) * substeps - 1, taken[:depth, k])
        steps = Decisions(
            observations[k, : depth + 1].clone(), drawn[k, :depth].clone(), torch.from_numpy(last)
        )
        answered.append(replace(row, completion=episode, steps=steps, segments=()))
    finished = torch.tensor([episode.terminated for episode in episodes])
    return Rollout(tuple(answered), logp, mask, finished, torch.arange(len(rows)) // n)
