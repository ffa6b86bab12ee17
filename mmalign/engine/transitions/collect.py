"""Collecting episodes with the present policy: each from a start of its own, or each where the last one ended."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from mmalign.engine.transitions.trajectory import Trajectory, rewarded
from mmalign.errors import UserError
from mmalign.protocols import Continues, Samples, Transitions
from mmalign.types import Row

if TYPE_CHECKING:
    from torch import nn

    from mmalign.config.transitions import TransitionsConfig
    from mmalign.types import Rollout, StepReward

__all__ = ["EpisodeCollector", "episode_numbers"]


@dataclass
class EpisodeCollector:
    """Plays episodes; a :class:`~mmalign.engine.loop.Counter`, since without resets the next start is its state.

    Args:
        adapter: offers ``Samples`` and ``Transitions``, and ``Continues`` where ``cfg.continuing``.
        model: the policy.
        rows: where episodes may start.
        cfg: the section.
        reward: what to learn from instead of the recorded reward.
    """

    adapter: Any
    model: nn.Module
    rows: Sequence[Row]
    cfg: TransitionsConfig
    reward: Callable[[Rollout], StepReward] | None = None
    resets: int = field(default=0, init=False)
    _played: int = field(default=0, init=False)
    _next: Row | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        for capability in (Samples, Transitions, *((Continues,) if self.cfg.continuing else ())):
            if not isinstance(self.adapter, capability):
                raise UserError(
                    f"offline_rl: modality {self.adapter.name!r} does not offer {capability.__name__}, which "
                    f"collecting {'without resets ' if self.cfg.continuing else ''}needs"
                )

    def __call__(
        self, episodes: int, rng: torch.Generator
    ) -> tuple[Sequence[Trajectory], Mapping[str, float]]:
        """Play ``episodes`` episodes and return their trajectories and mean numbers."""
        if not self.cfg.continuing:
            index = torch.randint(len(self.rows), (episodes,), generator=rng).tolist()
            self.resets += episodes
            made = self._play([self.rows[i] for i in index], rng)
        else:
            made = [trajectory for _ in range(episodes) for trajectory in self._go_on(rng)]
        return made, {**episode_numbers(made), "collect/resets": float(self.resets)}

    def state_dict(self) -> dict[str, Any]:
        """Counts, and the row that the next episode starts from."""
        row = self._next
        start = None if row is None else {"id": row.id, "prompt": row.prompt, "meta": dict(row.meta)}
        return {"resets": self.resets, "played": self._played, "next": start}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.resets, self._played = int(state["resets"]), int(state["played"])
        self._next = None if state["next"] is None else Row(**state["next"])

    def _go_on(self, rng: torch.Generator) -> list[Trajectory]:
        due = self.cfg.reset_every and self._played % self.cfg.reset_every == 0
        if self._next is None or due:
            self._next = self.rows[int(torch.randint(len(self.rows), (1,), generator=rng))]
            self.resets += 1
        rollout = self._sample([self._next], rng)
        self._played += 1
        self._next = self.adapter.continued(rollout.rows[0])
        return self._rewarded(rollout)

    def _play(self, rows: Sequence[Row], rng: torch.Generator) -> list[Trajectory]:
        return self._rewarded(self._sample(rows, rng))

    @torch.no_grad()
    def _sample(self, rows: Sequence[Row], rng: torch.Generator) -> Rollout:
        made: Rollout = self.adapter.sample(
            self.model,
            rows,
            1,
            rng,
            temperature=self.cfg.temperature,
            max_steps=self.cfg.max_episode_steps,
        )
        return made

    def _rewarded(self, rollout: Rollout) -> list[Trajectory]:
        plain: list[Trajectory] = self.adapter.trajectories(rollout.rows)
        return plain if self.reward is None else rewarded(plain, self.reward(rollout))


def episode_numbers(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Means over trajectories: ``collect/return``, ``collect/length`` and ``collect/<fact>`` of every fact."""
    n = len(trajectories)
    numbers = {
        "collect/return": math.fsum(float(item.rewards.sum()) for item in trajectories) / n,
        "collect/length": math.fsum(len(item) for item in trajectories) / n,
    }
    names = sorted({name for item in trajectories for name in item.facts})
    for name in names:
        values = [item.facts[name] for item in trajectories if name in item.facts]
        numbers[f"collect/{name}"] = math.fsum(values) / len(values)
    return numbers
