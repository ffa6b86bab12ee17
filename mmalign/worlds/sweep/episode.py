"""One episode as a record: what was seen, done and earned, and pictures of it on demand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmalign.worlds.sweep.environment import unpacked
from mmalign.worlds.sweep.layout import Start, layout
from mmalign.worlds.sweep.render import render, repeated

__all__ = ["Episode"]

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Episode:
    """An episode of ``T`` steps in any environment.

    Args:
        observations: ``[T + 1, ...]`` what was seen before each step and after the last.
        actions: ``[T, A]`` as the policy gave them, in [-1, 1].
        rewards: ``[T]`` the environment's own.
        success: ``[T]`` bool, after each step.
        terminated: the task ended it.
        truncated: the time limit ended it.
        start: what it takes to begin the same episode again.
        potential: ``[T + 1, K]`` numbers that rise towards success (sweep: see
            :func:`mmalign.worlds.sweep.physics.potential`); ``None`` where the environment has none.
        states: ``[T + 1, 10]`` of the sweep world, to draw it; ``None`` elsewhere.
        pixels: ``[T + 1, H, W, 3]`` bytes of an environment that cannot be drawn afterwards.
    """

    observations: Floats
    actions: Floats
    rewards: Floats
    success: NDArray[np.bool_]
    terminated: bool
    truncated: bool
    start: Mapping[str, Any]
    potential: Floats | None = None
    states: Floats | None = None
    pixels: NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self.actions)

    def __str__(self) -> str:
        outcome = "success" if self.succeeded else "no success"
        return f"episode of {len(self)} steps, {outcome}, return {float(self.rewards.sum()):.3f}"

    @property
    def succeeded(self) -> bool:
        """Success at any step."""
        return bool(self.success.any())

    @property
    def ended_well(self) -> bool:
        """Success after the last step."""
        return len(self) > 0 and bool(self.success[-1])

    def cut(self, first: int, last: int) -> Episode:
        """Steps ``first`` to ``last`` (half open) as an episode; cut ends are neither terminated nor truncated."""
        whole = last >= len(self)
        rest: dict[str, Any] = {
            name: None if (value := getattr(self, name)) is None else value[first : last + 1]
            for name in ("potential", "states", "pixels")
        }
        return replace(
            self,
            observations=self.observations[first : last + 1],
            actions=self.actions[first:last],
            rewards=self.rewards[first:last],
            success=self.success[first:last],
            terminated=self.terminated and whole,
            truncated=self.truncated and whole,
            **rest,
        )

    def frames(self) -> NDArray[np.uint8]:
        """Pictures ``[T + 1, H, W, 3]``; an episode without any has 0 of them."""
        if self.pixels is not None:
            return self.pixels
        if self.states is None:
            return np.zeros((0, 1, 1, 3), dtype=np.uint8)
        table = layout([Start(**{key: self.start[key] for key in ("task", "embodiment", "seed")})])
        return render(repeated(table, len(self.states)), unpacked(self.states))

    def clip(self, stem: Path, *, every: int = 4, zoom: int = 2) -> Path | None:
        """Write ``stem.gif`` from every ``every``-th picture, ``zoom`` times as large; ``None`` without pictures."""
        frames = self.frames()
        if not len(frames):
            return None
        chosen = np.concatenate([frames[::every], frames[-1:]])
        pictures = _indexed(chosen, zoom)
        path = stem.with_name(stem.name + ".gif")
        pictures[0].save(
            path, save_all=True, append_images=pictures[1:], duration=40 * every, loop=0, optimize=False
        )
        return path

    def save_as(self, stem: Path) -> Path:
        """Write the numbers as ``stem.json``, and a clip beside them; the clip's path, else the numbers'."""
        numbers = {
            "start": dict(self.start),
            "steps": len(self),
            "return": float(self.rewards.sum()),
            "succeeded": self.succeeded,
            "ended_well": self.ended_well,
            "terminated": self.terminated,
            "truncated": self.truncated,
            "rewards": [round(float(r), 6) for r in self.rewards],
            "actions": np.round(self.actions.astype(float), 5).tolist(),
        }
        path = stem.with_name(stem.name + ".json")
        path.write_text(json.dumps(numbers) + "\n", encoding="utf-8")
        return self.clip(stem) or path


def _indexed(frames: NDArray[np.uint8], zoom: int) -> list[Any]:
    """Pictures with one palette of the frames' own colours; with more than 256 of them, Pillow chooses."""
    from PIL import Image

    codes = frames.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
    colors, index = np.unique(codes, return_inverse=True)
    if len(colors) > 256:
        return [Image.fromarray(frame.repeat(zoom, 0).repeat(zoom, 1)) for frame in frames]
    palette = np.stack([colors >> 16, (colors >> 8) & 255, colors & 255], axis=1).astype(np.uint8)
    made = []
    for plane in index.reshape(codes.shape).astype(np.uint8):
        picture = Image.fromarray(plane.repeat(zoom, 0).repeat(zoom, 1)).convert("P")
        picture.putpalette(palette.flatten().tolist())
        made.append(picture)
    return made
