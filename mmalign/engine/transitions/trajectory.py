"""What one recorded stretch of control comes to when it is cut into transitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from mmalign.types import StepReward

__all__ = ["Trajectory", "best", "read_trajectories", "rewarded", "write_trajectories"]

TERMINAL_STEP = "terminal_step"
"""Note of a :class:`~mmalign.types.StepReward`: the step at which the reward says that the task ended, -1 for none."""


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One stretch of ``T`` steps in time order.

    Args:
        observations: ``[T + 1, O]`` what the policy saw before each step, and after the last.
        actions: ``[T, A]`` in [-1, 1].
        rewards: ``[T]``.
        terminal: whether the *task* ended with the last step; false where time ran out or another task began.
        facts: numbers about the stretch that are logged (``success``), never learned from.

    Raises:
        ValueError: when the lengths do not fit or there is no step.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    terminal: bool
    facts: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        steps = len(self.rewards)
        if not steps or len(self.actions) != steps or len(self.observations) != steps + 1:
            raise ValueError(
                f"a trajectory of {steps} rewards has {len(self.actions)} actions and {len(self.observations)} "
                "observations, expected as many actions and one observation more, and at least one step"
            )

    def __len__(self) -> int:
        return len(self.rewards)


def rewarded(trajectories: Sequence[Trajectory], reward: StepReward) -> list[Trajectory]:
    """The trajectories with a reward of one's own in the place of the recorded one.

    A note ``terminal_step`` (see :data:`TERMINAL_STEP`) cuts a trajectory after that step and makes it terminal; where
    it is -1 the trajectory is not terminal, whatever was recorded.

    Args:
        trajectories: ``B`` of them.
        reward: ``per_step`` ``[B, T]``, left-aligned, at least as long as the longest trajectory.
    """
    ends = reward.notes.get(TERMINAL_STEP)
    made = []
    for b, item in enumerate(trajectories):
        steps, terminal = len(item), item.terminal
        if ends is not None:
            end = int(ends[b])
            steps, terminal = (end + 1, True) if end >= 0 else (steps, False)
        facts = {
            **item.facts,
            **{name: float(note[b]) for name, note in reward.notes.items() if name != TERMINAL_STEP},
        }
        made.append(
            Trajectory(
                item.observations[: steps + 1],
                item.actions[:steps],
                reward.per_step[b, :steps].to(item.rewards.dtype),
                terminal,
                facts,
            )
        )
    return made


def best(trajectories: Sequence[Trajectory], share: float) -> list[Trajectory]:
    """The ``share`` of trajectories with the largest sums of rewards, at least one, in their old order.

    *Reference:* filtered cloning, Chen et al., Decision Transformer (2021, arXiv:2106.01345), section 5.1 ("%BC").
    *Differs from paper:* whole episodes by their plain sum.
    """
    count = max(1, round(share * len(trajectories)))
    order = sorted(range(len(trajectories)), key=lambda i: (-float(trajectories[i].rewards.sum()), i))
    kept = set(order[:count])
    return [item for i, item in enumerate(trajectories) if i in kept]


def write_trajectories(file: Path, trajectories: Sequence[Trajectory]) -> None:
    """Write trajectories (without their facts) to one safetensors file, through a temporary name and a rename."""
    from safetensors.torch import save_file

    tensors = {
        "observations": torch.cat([item.observations for item in trajectories]),
        "actions": torch.cat([item.actions for item in trajectories]),
        "rewards": torch.cat([item.rewards for item in trajectories]),
        "lengths": torch.tensor([len(item) for item in trajectories]),
        "terminal": torch.tensor([item.terminal for item in trajectories]),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.tmp")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
    temporary.replace(file)


def read_trajectories(file: Path) -> list[Trajectory]:
    """What :func:`write_trajectories` wrote."""
    from safetensors.torch import load_file

    read = load_file(file)
    lengths = read["lengths"].tolist()
    pieces = [read["observations"].split([n + 1 for n in lengths])]
    pieces += [read[name].split(lengths) for name in ("actions", "rewards")]
    return [
        Trajectory(o, a, r, bool(t)) for o, a, r, t in zip(*pieces, read["terminal"].tolist(), strict=True)
    ]
