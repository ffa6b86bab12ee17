"""Stepping the sweep world: one batch against gymnasium environments, one by one and in its vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmalign.bench.definition import Bench, Case, Comparison, Step
from mmalign.worlds import sweep

__all__ = ["BENCH", "EnvironmentSetting"]

VARIANTS: Mapping[str, str] = {
    "one-by-one": "gymnasium environments stepped in a loop",
    "vector": "gymnasium.vector.SyncVectorEnv over the same environments",
    "batch": "mmalign.worlds.sweep.SweepBatch",
}


@dataclass(frozen=True)
class EnvironmentSetting:
    """Episodes of one task and embodiment under random actions; calling it builds the named variants.

    Args:
        n: episodes side by side, of starts with which none ends: gymnasium's vector would begin such a one anew.
        steps: steps of each; shorter than the time limit.
    """

    n: int
    steps: int

    def __call__(self, names: Sequence[str]) -> Mapping[str, Step]:
        """One step per name; the outcome is every last observation and the sum of the rewards."""
        makers = {"one-by-one": self._loop, "vector": self._vector, "batch": self._batch}
        return {name: makers[name]() for name in names}

    @cached_property
    def _seeds(self) -> list[int]:
        """The first starts from 1000 on, without those whose episode ends under these actions."""
        seeds, spare = [1000 + k for k in range(self.n)], count(1000 + self.n)
        while True:
            env = sweep.SweepBatch([sweep.Start("group", "short", seed) for seed in seeds])
            env.reset()
            for now in self._actions():
                env.step(now)
            if not env.ended.any():
                return seeds
            seeds = [next(spare) if ended else seed for seed, ended in zip(seeds, env.ended, strict=True)]

    def _actions(self) -> NDArray[np.float32]:
        rng = np.random.default_rng(0)
        return rng.uniform(-1.0, 1.0, (self.steps, self.n, sweep.ACTION_SIZE)).astype(np.float32)

    def _loop(self) -> Step:
        envs = [sweep.sweep_env("group", "short") for _ in range(self.n)]
        state: dict[str, Tensor] = {}

        def run(actions: NDArray[np.float32]) -> None:
            seen = [env.reset(seed=seed)[0] for env, seed in zip(envs, self._seeds, strict=True)]
            total = 0.0
            for now in actions:
                for k, env in enumerate(envs):
                    seen[k], reward, *_ = env.step(now[k])
                    total += reward
            _keep(state, np.stack(seen), total)

        return Step(run, lambda: state, self._actions)

    def _vector(self) -> Step:
        import gymnasium

        made = gymnasium.vector.SyncVectorEnv([lambda: sweep.sweep_env("group", "short")] * self.n)
        state: dict[str, Tensor] = {}

        def run(actions: NDArray[np.float32]) -> None:
            seeds: list[int | None] = [*self._seeds]
            seen: Any = made.reset(seed=seeds)[0]
            total = 0.0
            for now in actions:
                seen, reward, *_ = made.step(now)
                total += float(reward.sum())
            _keep(state, seen, total)

        return Step(run, lambda: state, self._actions)

    def _batch(self) -> Step:
        starts = [sweep.Start("group", "short", seed) for seed in self._seeds]
        state: dict[str, Tensor] = {}

        def run(actions: NDArray[np.float32]) -> None:
            env = sweep.SweepBatch(starts)
            seen, total = env.reset(), 0.0
            for now in actions:
                made = env.step(now)
                seen, total = made.observation, total + float(made.reward.sum())
            _keep(state, seen, total)

        return Step(run, lambda: state, self._actions)


def _keep(state: dict[str, Tensor], seen: NDArray[np.float32], total: float) -> None:
    state["observations"] = torch.from_numpy(np.array(seen))
    state["reward"] = torch.tensor([1.0 + total])


def _case(name: str, n: int, steps: int, *, quick: bool = False) -> Case:
    ratios = (Comparison("one-by-one", "batch"), Comparison("vector", "batch"))
    text = f"task group, short stick; {n} episodes of {steps} steps, vector observations"
    return Case(name, text, VARIANTS, EnvironmentSetting(n, steps), ratios, rounds=5, quick=quick)


BENCH = Bench(
    name="env_steps",
    title="Environment steps: one numpy batch against gymnasium environments",
    cases=(_case("quick", 16, 20, quick=True), _case("n64", 64, 60), _case("n256", 256, 60)),
    headline=("n64", "one-by-one / batch"),
    quick_headline=("quick", "one-by-one / batch"),
    needs={"gymnasium": "pip install 'mmalign[robot]'"},
    notes=(
        "the last observations are equal bit for bit",
        "the gymnasium environment is a batch of one, so that the physics are the same code",
    ),
)
