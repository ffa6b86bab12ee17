"""What a modality offers whose answers act on a world: single transitions, and going on without a reset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch
    from torch import nn

    from mmalign.engine.transitions.trajectory import Trajectory
    from mmalign.types import Row

__all__ = ["Continues", "Transitions"]


@runtime_checkable
class Transitions(Protocol):
    """Control whose recorded episodes can be cut into transitions, with actions that a critic can be asked about."""

    def trajectories(self, rows: Sequence[Row]) -> list[Trajectory]:
        """The recorded steps (``row.steps``) of every row, with the reward the environment gave."""
        ...

    def propose(
        self, model: nn.Module, observation: torch.Tensor, rng: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One action ``[B, A]`` in [-1, 1] per observation ``[B, O]`` and its log-probability ``[B]`` in nats.

        Both with gradient through the draw (reparameterised).
        """
        ...

    def action_logp(self, model: nn.Module, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Log-probability ``[B]`` in nats of given actions ``[B, A]``, with gradient."""
        ...


@runtime_checkable
class Continues(Protocol):
    """Goes on where an episode ended, so that nobody has to put things back."""

    def continued(self, row: Row) -> Row:
        """An unanswered row that starts in the state in which the answered ``row`` ended, with the opposite task."""
        ...
