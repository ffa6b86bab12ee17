"""A store of transitions: trajectories in, random batches out, with the return of every step."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from mmalign.engine.transitions.trajectory import Trajectory, read_trajectories, write_trajectories
from mmalign.objectives.value_based import monte_carlo_returns

__all__ = ["Collected", "TransitionBatch", "TransitionStore"]

Tail = Literal["zero", "last"]
"""What lies beyond a cut trajectory: nothing, or its last reward for ever."""


@dataclass(frozen=True, slots=True)
class TransitionBatch:
    """``B`` transitions: ``observation`` ``[B, O]``, ``action`` ``[B, A]``, ``reward`` ``[B]`` as the critic sees it,
    ``next_observation`` ``[B, O]``, ``terminal`` ``[B]`` bool and ``mc_return`` ``[B]``."""

    observation: Tensor
    action: Tensor
    reward: Tensor
    next_observation: Tensor
    terminal: Tensor
    mc_return: Tensor

    def __len__(self) -> int:
        return len(self.reward)

    @classmethod
    def joined(cls, parts: Sequence[TransitionBatch]) -> TransitionBatch:
        """The parts one after another."""
        columns = zip(*[[getattr(part, name) for name in cls.__slots__] for part in parts], strict=True)  # type: ignore[attr-defined]
        return cls(*(torch.cat(list(column)) for column in columns))


class TransitionStore:
    """Transitions of the newest trajectories.

    Rewards become ``scale * r + bias`` when a trajectory is added, and its returns are those of *these* rewards under
    ``gamma``, for recorded and collected trajectories alike.

    Args:
        gamma: discount of the returns, the critic's own.
        scale, bias: of rewards.
        tail: what a cut trajectory's return holds beyond its end; ``last`` is its last reward for ever.
        capacity: transitions kept at most; whole trajectories leave, the oldest first.
    """

    def __init__(
        self,
        gamma: float,
        *,
        scale: float = 1.0,
        bias: float = 0.0,
        tail: Tail = "zero",
        capacity: int | None = None,
    ) -> None:
        self._gamma, self._scale, self._bias = gamma, scale, bias
        self._tail, self._capacity = tail, capacity
        self._parts: list[TransitionBatch] = []
        self._all: TransitionBatch | None = None

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)

    def add(self, trajectories: Sequence[Trajectory]) -> None:
        """Cut trajectories into transitions."""
        for item in trajectories:
            reward = self._scale * item.rewards + self._bias
            last = torch.zeros(len(item), dtype=torch.bool)
            last[-1] = True
            beyond = (
                float(reward[-1]) / (1 - self._gamma) if self._tail == "last" and self._gamma < 1 else 0.0
            )
            returns = monte_carlo_returns(reward, last & item.terminal, last, self._gamma, beyond)
            before, after = item.observations[:-1], item.observations[1:]
            self._parts.append(
                TransitionBatch(before, item.actions, reward, after, last & item.terminal, returns)
            )
        while self._capacity is not None and len(self) > self._capacity and len(self._parts) > 1:
            self._parts.pop(0)
        self._all = None

    def everything(self) -> TransitionBatch:
        """All transitions, oldest first.

        Raises:
            ValueError: when there is none.
        """
        if not self._parts:
            raise ValueError("the store is empty: nothing was added to it")
        if self._all is None:
            self._all = TransitionBatch.joined(self._parts)
        return self._all

    def sample(self, n: int, rng: torch.Generator) -> TransitionBatch:
        """Draw ``n`` transitions uniformly with replacement."""
        whole = self.everything()
        index = torch.randint(len(whole), (n,), generator=rng)
        return TransitionBatch(*(getattr(whole, name)[index] for name in TransitionBatch.__slots__))  # type: ignore[attr-defined]


class Collected:
    """Trajectories collected while training, kept as one file per step so that a killed run finds them again.

    A :class:`~mmalign.engine.loop.Counter`: a checkpoint holds the number of the last step only; files of later steps
    are removed when it is restored, since those steps are done again.

    Args:
        store: what they are added to.
        folder: where the files lie.
    """

    def __init__(self, store: TransitionStore, folder: Path) -> None:
        self.store = store
        self._folder = folder
        self._step = 0

    def add(self, step: int, trajectories: Sequence[Trajectory]) -> None:
        """Add what ``step`` collected, and write it."""
        write_trajectories(self._folder / f"{step:06d}.safetensors", trajectories)
        self.store.add(trajectories)
        self._step = step

    def clear(self) -> None:
        """Remove the files, once they are needed no longer."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def state_dict(self) -> dict[str, Any]:
        """The last step that collected."""
        return {"step": self._step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Read every step's file up to the recorded one again."""
        self._step = int(state["step"])
        for file in sorted(self._folder.glob("*.safetensors")):
            if int(file.stem) <= self._step:
                self.store.add(read_trajectories(file))
            else:
                file.unlink()
