"""Tasks whose answers are episodes: the sweep world with exact success, and any environment with seeded starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmalign.benchmarks.tasks.base import CompositeTask
from mmalign.errors import UserError
from mmalign.stats.composite import Composite, mean
from mmalign.types import Row
from mmalign.worlds import seeds, sweep

__all__ = ["Episodes", "SweepTask"]

_COMMON: dict[str, Composite] = {
    "success": mean("success", True),
    "success_at_end": mean("success_at_end", True),
    "return": mean("return", True, rate=False),
    "steps": mean("env_steps", False, rate=False),
    "out_of_time": mean("out_of_time", False),
}


class SweepTask(CompositeTask):
    """Success (at any step, and at the last), progress, return and length; success per task and embodiment as well.

    Args:
        split: whose starts; no two splits share one.
        n: how many starts, going round every task and embodiment.
        seed: which stream of starts.
        tasks: names with commas between them, or ``all``.
        embodiments: the same; ``long`` is in no training row.
    """

    def __init__(
        self,
        *,
        split: str = "test",
        n: int = 256,
        seed: int = 0,
        tasks: str = "all",
        embodiments: str = "all",
    ) -> None:
        chosen, bodies = (
            _named(tasks, sweep.TASKS, "tasks"),
            _named(embodiments, sweep.EMBODIMENTS, "embodiments"),
        )
        if n < 1:
            raise UserError(f"n is {n}; a task needs at least one row")
        composites = {
            **_COMMON,
            "progress": mean("progress", True, rate=False),
            "harmed": mean("harmed", False),
            **{f"success/{name}": mean(f"success/{name}", True) for name in (*chosen, *bodies)},
        }
        info = {"source": "mmalign.worlds.sweep", "split": split, "world_seed": seed}
        info |= {"tasks": ",".join(chosen), "embodiments": ",".join(bodies)}
        super().__init__("sweep", "1", "episode.v1", composites, info, ("success", "progress", "steps"))
        self._request = (split, n, seed, chosen, bodies)

    def rows(self) -> list[Row]:
        """The starts."""
        split, n, seed, chosen, bodies = self._request
        return sweep.rows(split, n, seed, tasks=chosen, embodiments=bodies)

    def score(self, row: Row, output: Any) -> Mapping[str, Any]:
        """Read the outcome off an episode; anything else is not parsed."""
        read = _outcome(output)
        if not read["parse_ok"]:
            return read
        scores = dict(read["scores"])
        left = output.potential[:, 0]
        scores["progress"] = float(1.0 - left[-1] / left[0]) if left[0] else 1.0
        scores["harmed"] = float(output.terminated and not output.succeeded)
        for name in (row.meta["task"], output.start["embodiment"]):
            scores[f"success/{name}"] = scores["success"]
        return {**read, "scores": scores}


class Episodes(CompositeTask):
    """Success, return and length in any environment whose episodes begin from a seed.

    Success is what the environment's ``info`` calls so; an environment that says nothing never succeeds.

    Args:
        split: whose seeds; no two splits share one.
        n: how many episodes.
        seed: which stream of seeds.
    """

    def __init__(self, *, split: str = "test", n: int = 64, seed: int = 0) -> None:
        info = {"source": "mmalign.worlds.seeds", "split": split, "world_seed": seed}
        super().__init__("episodes", "1", "episode.v1", _COMMON, info, ("success", "return", "steps"))
        self._request = (split, n, seed)

    def rows(self) -> list[Row]:
        """The seeds."""
        return seeds.rows(*self._request)

    def score(self, row: Row, output: Any) -> Mapping[str, Any]:
        """Read the outcome off an episode; anything else is not parsed."""
        return _outcome(output)


def _outcome(output: Any) -> dict[str, Any]:
    if not isinstance(output, sweep.Episode):
        return {"parsed": None, "parse_ok": False, "scores": {}}
    scores = {
        "success": float(output.succeeded),
        "success_at_end": float(output.ended_well),
        "return": float(output.rewards.sum()),
        "env_steps": float(len(output)),
        "out_of_time": float(output.truncated),
    }
    return {"parsed": str(output), "parse_ok": True, "scores": scores}


def _named(text: str, known: Any, what: str) -> tuple[str, ...]:
    names = tuple(known) if text == "all" else tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in known:
            raise UserError(f"{what}: {name!r} is not one of {', '.join(known)}")
    return names
