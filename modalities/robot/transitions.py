"""Episodes cut into transitions, and a Gaussian policy that critics can be asked about."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmalign.engine.transitions.actor import squashed_draw, squashed_logp
from mmalign.engine.transitions.trajectory import Trajectory
from mmalign.errors import UserError
from mmalign.modalities.robot.environments import LEFT
from mmalign.modalities.robot.heads import GaussianHead
from mmalign.modalities.robot.policy import RobotPolicy
from mmalign.rng import derive_seed
from mmalign.types import Row
from mmalign.worlds.sweep import BACK, Episode, Start, layout

__all__ = ["CutsTransitions"]


class CutsTransitions:
    """``Transitions`` and ``Continues`` for the robot adapter: vectors, ``policy: gaussian`` with ``squash: tanh``.

    Here the density is that of the *action*, with the change of variables: the entropy of maximum-entropy learning is
    over actions.  (``logp`` of the adapter is over the Gaussian number; the two differ by a term that no ratio sees.)
    """

    def trajectories(self, rows: Sequence[Row]) -> list[Trajectory]:
        """The recorded episode of every row; an end by the time limit is not terminal.

        Raises:
            UserError: when a row has no episode of vectors.
        """
        return [_trajectory(row) for row in rows]

    def propose(self, model: nn.Module, observation: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """One action ``[B, A]`` per observation ``[B, D]`` and its log-density ``[B]``, both with gradient."""
        mean, log_std = _moments(model, observation)
        return squashed_draw(mean, log_std, torch.randn(mean.shape, generator=rng))

    def action_logp(self, model: nn.Module, observation: Tensor, action: Tensor) -> Tensor:
        """Log-density ``[B]`` of given actions ``[B, A]``."""
        mean, log_std = _moments(model, observation)
        return squashed_logp(mean, log_std, action, 0.03)

    def continued(self, row: Row) -> Row:
        """The other way round, there and back in turn: a new goal, every block where the answered row left it.

        The robot drives to a resting place by itself; nobody moves a block.

        Raises:
            UserError: when the row's episode is not one of the sweep world.
        """
        episode = row.completion
        if not isinstance(episode, Episode) or episode.states is None:
            raise UserError(f"row {row.id}: only episodes of the sweep world can be gone on with")
        before = int(episode.start["seed"])
        seed = derive_seed(before, "continued") % BACK + (0 if before >= BACK else BACK)
        start = Start(str(episode.start["task"]), str(episode.start["embodiment"]), seed)
        left = [*layout([start]).pusher[0].tolist(), *(float(number) for number in episode.states[-1][2:])]
        return Row(id=row.id, prompt=str(start), meta={LEFT: left})


def _moments(model: nn.Module, observation: Tensor) -> tuple[Tensor, Tensor]:
    assert isinstance(model, RobotPolicy)
    head = model.head
    if not isinstance(head, GaussianHead) or head.squash != "tanh" or model.trunk.pixels:
        raise UserError(
            "offline_rl: learns vector policies with policy: gaussian and squash: tanh (model.options), found "
            f"{model.make.policy} with squash {model.make.squash} on {model.make.observation}"
        )
    mean = head.mean(model.trunk(observation)[0])
    return mean, head.log_std.expand_as(mean)


def _trajectory(row: Row) -> Trajectory:
    episode = row.completion
    if not isinstance(episode, Episode) or not len(episode) or episode.observations.ndim != 2:
        raise UserError(f"row {row.id}: has no episode of vector observations to cut into transitions")
    return Trajectory(
        torch.from_numpy(episode.observations).float(),
        torch.from_numpy(episode.actions).float().clamp(-1.0, 1.0),
        torch.from_numpy(episode.rewards).float(),
        episode.terminated,
        {"success": float(episode.succeeded)},
    )
