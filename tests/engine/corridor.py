"""A corridor to walk along: the smallest control modality with an exact truth, for the engine of transitions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmalign.engine.loop import LoopState
from mmalign.engine.transitions.actor import squashed_draw, squashed_logp
from mmalign.engine.transitions.collect import EpisodeCollector
from mmalign.engine.transitions.store import Collected, TransitionStore
from mmalign.engine.transitions.trainer import TransitionTrainer
from mmalign.engine.transitions.trajectory import Trajectory
from mmalign.engine.transitions.update import Learner
from mmalign.rng import generator
from mmalign.types import Rollout, Row

SPEED, GOAL, LIMIT = 0.08, 0.95, 40


@dataclass(frozen=True)
class Walk:
    """One recorded walk: places ``[T + 1]``, actions ``[T, 1]``, whether it arrived, and where it was bound for."""

    places: Tensor
    actions: Tensor
    arrived: bool
    right: bool = True


class Walker(nn.Module):
    """A tanh-Gaussian policy of the place and the direction."""

    def __init__(self, seed: int = 0, width: int = 32) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 2))

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.body(observation).chunk(2, -1)
        return mean, log_std.clamp(-4, 1)


class CorridorAdapter:
    """Samples, Transitions and Continues over :class:`Walker`; a row's prompt is ``[place, direction]``."""

    name = "corridor"

    def observe(self, places: Tensor, right: bool) -> Tensor:
        return torch.stack([places, torch.full_like(places, 1.0 if right else -1.0)], 1)

    def trajectories(self, rows: Sequence[Row]) -> list[Trajectory]:
        made = []
        for row in rows:
            walk: Walk = row.steps
            rewards = torch.zeros(len(walk.actions))
            rewards[-1] = float(walk.arrived)
            seen = self.observe(walk.places, walk.right)
            made.append(
                Trajectory(seen, walk.actions, rewards, walk.arrived, {"success": float(walk.arrived)})
            )
        return made

    def propose(self, model: nn.Module, observation: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        mean, log_std = model(observation)
        return squashed_draw(mean, log_std, torch.randn(mean.shape, generator=rng))

    def action_logp(self, model: nn.Module, observation: Tensor, action: Tensor) -> Tensor:
        return squashed_logp(*model(observation), action)

    def sample(
        self,
        model: nn.Module,
        rows: Sequence[Row],
        n: int,
        rng: torch.Generator,
        *,
        temperature: float = 1.0,
        max_steps: int = LIMIT,
    ) -> Rollout:
        answered = [self._walk(model, row, rng, temperature, max_steps) for row in rows for _ in range(n)]
        empty = torch.zeros(len(answered), 1)
        real = torch.ones_like(empty, dtype=torch.bool)
        return Rollout(tuple(answered), empty, real, real[:, 0], torch.arange(len(answered)))

    def continued(self, row: Row) -> Row:
        return Row(id=row.id, prompt=[float(row.steps.places[-1]), -row.prompt[1]], meta=row.meta)

    def _walk(self, model: nn.Module, row: Row, rng: torch.Generator, temperature: float, most: int) -> Row:
        place, right = row.prompt[0], row.prompt[1] > 0
        places, actions, arrived = [place], [], False
        while len(actions) < most and not arrived:
            mean, log_std = model(self.observe(torch.tensor([place]), right))
            noise = torch.randn(1, 1, generator=rng) * temperature
            action = float(squashed_draw(mean, log_std, noise)[0])
            place = min(1.0, max(0.0, place + SPEED * action))
            arrived = place >= GOAL if right else place <= 1 - GOAL
            places.append(place)
            actions.append(action)
        walk = Walk(torch.tensor(places), torch.tensor(actions)[:, None], arrived, right)
        return replace(row, completion=walk, steps=walk)


def starts(n: int, seed: int = 0) -> list[Row]:
    places = torch.rand(n, generator=generator(seed, "starts")) * 0.2 + 0.05
    return [Row(id=str(i), prompt=[float(place), 1.0]) for i, place in enumerate(places)]


def recorded(n: int, drift: float, seed: int = 0, most: int = LIMIT) -> list[Row]:
    """Walks of a noisy walker with the given drift: actions ``clip(drift + noise)``."""
    rng, rows = generator(seed, "recorded"), []
    for row in starts(n, seed):
        place, places, actions = row.prompt[0], [row.prompt[0]], []
        while len(actions) < most and place < GOAL:
            action = float((drift + 0.6 * torch.randn(1, generator=rng)).clamp(-1, 1))
            place = min(1.0, max(0.0, place + SPEED * action))
            places.append(place)
            actions.append(action)
        walk = Walk(torch.tensor(places), torch.tensor(actions)[:, None], place >= GOAL)
        rows.append(replace(row, completion=walk, steps=walk))
    return rows


def success(
    policy: nn.Module, n: int = 40, seed: int = 99, temperature: float = 0.0, most: int = LIMIT
) -> float:
    """Share of ``n`` walks that arrive."""
    adapter = CorridorAdapter()
    with torch.no_grad():
        rollout = adapter.sample(
            policy, starts(n, seed), 1, generator(seed, "test"), temperature=temperature, max_steps=most
        )
    return sum(row.steps.arrived for row in rollout.rows) / n


def make(
    cfg: Any, folder: Path, rows: Sequence[Row], seed: int = 0, **parts: Any
) -> tuple[TransitionTrainer, nn.Module]:
    """A trainer on the corridor, and its policy."""
    adapter, policy = CorridorAdapter(), Walker(seed)
    store = TransitionStore(cfg.gamma, scale=cfg.reward_scale, bias=cfg.reward_bias, tail=cfg.tail)
    store.add(adapter.trajectories(rows))
    learner = Learner.of(adapter, policy, cfg, store.everything(), seed)
    own = TransitionStore(
        cfg.gamma, scale=cfg.reward_scale, bias=cfg.reward_bias, tail=cfg.tail, capacity=cfg.capacity
    )
    collected = Collected(own, folder / "collected")
    collector = EpisodeCollector(adapter, policy, starts(64, seed + 1), cfg)
    state = LoopState(
        learner.modules(), learner.optimizer(), {"collected": collected, "collector": collector}
    )
    return TransitionTrainer(
        learner, store, collected, collector, state, cfg, "offline_rl", seed, **parts
    ), policy


__all__ = ["CorridorAdapter", "Walk", "Walker", "make", "recorded", "starts", "success"]
