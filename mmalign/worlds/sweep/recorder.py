"""Turning what a batch of episodes did into one record per episode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmalign.worlds.sweep.episode import Episode

__all__ = ["Recorder"]

_BEFORE = ("observation", "potential", "states", "pixels")
_DURING = ("action", "reward", "success", "terminated", "truncated")


class Recorder:
    """Collects steps of ``B`` episodes of different lengths; a column that is never given stays ``None``."""

    def __init__(self) -> None:
        self._columns: dict[str, list[NDArray[Any]]] = {name: [] for name in (*_BEFORE, *_DURING)}
        self._alive: list[NDArray[np.bool_]] = []

    def begin(
        self,
        observation: NDArray[Any],
        *,
        potential: NDArray[Any] | None = None,
        states: NDArray[Any] | None = None,
        pixels: NDArray[Any] | None = None,
    ) -> None:
        """What there is before the first step, each ``[B, ...]``."""
        self._keep(observation=observation, potential=potential, states=states, pixels=pixels)

    def add(
        self,
        alive: NDArray[np.bool_],
        action: NDArray[Any],
        reward: NDArray[Any],
        *,
        success: NDArray[np.bool_],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        observation: NDArray[Any],
        potential: NDArray[Any] | None = None,
        states: NDArray[Any] | None = None,
        pixels: NDArray[Any] | None = None,
    ) -> None:
        """One step of every episode; ``alive`` ``[B]`` says which of them took it."""
        self._alive.append(alive.copy())
        self._keep(action=action, reward=reward, success=success, terminated=terminated, truncated=truncated)
        self._keep(observation=observation, potential=potential, states=states, pixels=pixels)

    def episodes(self, starts: Sequence[Mapping[str, Any]], *, cut: bool = False) -> list[Episode]:
        """One record per episode; ``cut`` marks those that were still alive as truncated.

        Raises:
            ValueError: when no step was taken.
        """
        if not self._alive:
            raise ValueError("no step was taken, so there is no episode")
        whole = {name: np.stack(parts) for name, parts in self._columns.items() if parts}
        steps = np.stack(self._alive).sum(axis=0)
        return [
            _one(whole, k, int(n), start, cut) for k, (n, start) in enumerate(zip(steps, starts, strict=True))
        ]

    def _keep(self, **columns: NDArray[Any] | None) -> None:
        for name, value in columns.items():
            if value is not None:
                self._columns[name].append(value)


def _one(whole: Mapping[str, NDArray[Any]], k: int, n: int, start: Mapping[str, Any], cut: bool) -> Episode:
    def before(name: str) -> Any:
        return whole[name][: n + 1, k].copy() if name in whole else None

    potential, terminated = before("potential"), bool(whole["terminated"][:n, k].any())
    return Episode(
        observations=before("observation"),
        actions=whole["action"][:n, k].astype(np.float32),
        rewards=whole["reward"][:n, k].astype(np.float32),
        success=whole["success"][:n, k].copy(),
        terminated=terminated,
        truncated=bool(whole["truncated"][:n, k].any()) or (cut and not terminated),
        start=dict(start),
        potential=None if potential is None else potential.astype(np.float32),
        states=before("states"),
        pixels=before("pixels"),
    )
