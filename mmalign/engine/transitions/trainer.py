"""The trainer of stage ``offline_rl``: updates on recorded transitions, then on recorded and collected ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from mmalign.engine.optim import learning_rate_factor, set_learning_rates
from mmalign.engine.step import optimisation_step
from mmalign.engine.transitions.store import TransitionBatch
from mmalign.rng import generator

if TYPE_CHECKING:
    from mmalign.config.transitions import TransitionsConfig
    from mmalign.engine.loop import LoopState
    from mmalign.engine.transitions.store import Collected, TransitionStore
    from mmalign.engine.transitions.trajectory import Trajectory
    from mmalign.engine.transitions.update import Learner

__all__ = ["Collector", "TransitionTrainer"]


class Collector(Protocol):
    """Plays episodes with the present policy."""

    def __call__(
        self, episodes: int, rng: torch.Generator
    ) -> tuple[Sequence[Trajectory], Mapping[str, float]]:
        """``episodes`` trajectories with the reward to learn from, and numbers to log."""
        ...


@dataclass(frozen=True)
class TransitionTrainer:
    """One step of learning from transitions; give ``trainer.step`` to :func:`mmalign.engine.loop.run_loop`.

    Args:
        learner: networks and losses.
        recorded: the recorded transitions.
        collected: those of its own.
        collect: plays episodes; asked in online steps only.
        state: modules, optimiser, counters.
        cfg: the section.
        name: the stage's name; names its random streams.
        seed: the run's.
        watch: numbers to log at a step, such as held-out success; called before the step's updates.
    """

    learner: Learner
    recorded: TransitionStore
    collected: Collected
    collect: Collector
    state: LoopState
    cfg: TransitionsConfig
    name: str
    seed: int
    watch: Callable[[int], Mapping[str, float]] | None = None

    def step(self, step: int) -> Mapping[str, float]:
        """Do step ``step`` (counted from 1) and return the means of its updates' metrics."""
        online = step > self.cfg.offline_steps
        factor = learning_rate_factor(step, self.cfg.max_steps, 0.0, self.cfg.lr_scheduler_type)
        set_learning_rates(self.state.optimizer, factor)
        logged: dict[str, float] = dict(self.watch(step)) if self.watch is not None else {}
        if online:
            first = step == self.cfg.offline_steps + 1
            episodes = self.cfg.episodes + (self.cfg.warmup_episodes if first else 0)
            rng = generator(self.seed, self.name, "collect", step)
            self.learner.policy.eval()
            trajectories, numbers = self.collect(episodes, rng)
            self.collected.add(step, trajectories)
            logged |= numbers
        sums: dict[str, float] = {}
        for update in range(self.cfg.updates):
            rng = generator(self.seed, self.name, "update", step, update)
            batch = self._batch(rng, online)
            metrics = optimisation_step(
                [lambda batch=batch, rng=rng: self.learner.loss(batch, rng, online=online)],  # type: ignore[misc]
                self.state.optimizer,
                max_grad_norm=self.cfg.max_grad_norm,
                where=f"stage {self.name}, step {step}",
            )
            self.learner.after()
            for name, value in metrics.items():
                sums[name] = sums.get(name, 0.0) + value
        return {**logged, **{name: value / self.cfg.updates for name, value in sums.items()}}

    def _batch(self, rng: torch.Generator, online: bool) -> TransitionBatch:
        size = self.cfg.batch_size
        recorded = round(size * self.cfg.offline_share) if online else size
        parts = [self.recorded.sample(recorded, rng)] if recorded else []
        if size - recorded:
            parts.append(self.collected.store.sample(size - recorded, rng))
        return TransitionBatch.joined(parts) if len(parts) > 1 else parts[0]
