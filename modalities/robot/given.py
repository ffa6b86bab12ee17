"""Episodes that somebody else acted (an expert, a segment to compare) as decisions of a policy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmalign.errors import UserError
from mmalign.modalities.robot.diffusion_head import DiffusionHead
from mmalign.modalities.robot.policy import RobotPolicy
from mmalign.modalities.robot.steps import Decisions
from mmalign.types import Row
from mmalign.worlds.sweep import Episode

__all__ = ["chunks_of", "decisions_of", "observations_of"]


def observations_of(row: Row, model: RobotPolicy) -> Tensor:
    """What the policy would have seen of the row's episode, ``[N + 1, ...]``.

    Raises:
        UserError: when the row has no episode with a step, or its observations are not the policy's.
    """
    episode = _episode(row)
    seen: Any = episode.observations
    if model.trunk.pixels and seen.ndim == 2:
        seen = episode.frames()
    if tuple(seen.shape[1:]) != model.trunk.shape:
        raise UserError(
            f"row {row.id}: its episode shows {tuple(seen.shape[1:])}, the policy sees {model.trunk.shape} "
            "(model.options.observe)"
        )
    return torch.from_numpy(seen)


def decisions_of(row: Row, model: RobotPolicy) -> Decisions:
    """The row's actions as if the policy had drawn them one by one."""
    assert not isinstance(model.head, DiffusionHead)
    actions = _actions(row, model)
    return Decisions(observations_of(row, model), model.head.record_of(actions), torch.arange(len(actions)))


def chunks_of(row: Row, model: RobotPolicy) -> Decisions:
    """The chunk ``[C * A]`` that begins at every step of the row's episode; the last action fills what runs over."""
    actions = _actions(row, model)
    n = len(actions)
    place = (torch.arange(n)[:, None] + torch.arange(model.chunk)).clamp(max=n - 1)
    return Decisions(observations_of(row, model), actions[place].flatten(1), torch.arange(n))


def _episode(row: Row) -> Episode:
    if not isinstance(row.completion, Episode) or not len(row.completion):
        raise UserError(
            f"row {row.id}: it has no episode and no recorded steps, so there is nothing to score"
        )
    return row.completion


def _actions(row: Row, model: RobotPolicy) -> Tensor:
    actions = torch.from_numpy(_episode(row).actions)
    if actions.dim() != 2 or actions.shape[1] != model.make.actions:
        raise UserError(
            f"row {row.id}: its actions have shape {tuple(actions.shape)}, expected {model.make.actions} numbers"
        )
    return actions
