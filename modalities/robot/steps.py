"""The record of an episode's decisions, as the policy took them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Decisions", "padded"]


@dataclass(frozen=True, eq=False)
class Decisions:
    """What a policy saw and drew, one entry per decision (an action, or a chunk of them).

    Args:
        observations: ``[D + 1, ...]`` before each decision and after the last.
        drawn: ``[D, ...]`` what was drawn: Gaussian numbers ``[D, A]``, bins ``[D, A]``, or a denoising chain
            ``[D, K + 1, C * A]`` with its random start first.
        earned: ``[N]`` the step of the answer on which the reward of each environment step is paid; the last step of
            its decision.
    """

    observations: Tensor
    drawn: Tensor
    earned: Tensor

    def __len__(self) -> int:
        return len(self.drawn)


def padded(records: Sequence[Decisions]) -> tuple[Tensor, Tensor, Tensor]:
    """Observations ``[B, D + 1, ...]``, draws ``[B, D, ...]`` and the mask ``[B, D]`` of several records."""
    width = max(len(record) for record in records)
    first = records[0]
    observations = first.observations.new_zeros(len(records), width + 1, *first.observations.shape[1:])
    drawn = first.drawn.new_zeros(len(records), width, *first.drawn.shape[1:])
    mask = torch.zeros(len(records), width, dtype=torch.bool)
    for k, record in enumerate(records):
        observations[k, : len(record) + 1] = record.observations
        drawn[k, : len(record)] = record.drawn
        mask[k, : len(record)] = True
    return observations, drawn, mask
