"""Episodes of the sweep world as short videos: a few evenly spaced frames, small, as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mmalign.errors import UserError
from mmalign.rng import numpy_generator
from mmalign.worlds import sweep

__all__ = ["FRAMES", "POOL", "expert_videos", "frames_at", "spaced", "video"]

FRAMES = 12
"""Frames of a video that is compared as a whole."""
POOL = 2
"""Pictures are averaged over squares of this side: 64 pixels become 32."""


def spaced(steps: int, frames: int = FRAMES) -> list[int]:
    """``frames`` indices from 0 to ``steps``, evenly spaced; short episodes repeat some."""
    return [round(k * steps / (frames - 1)) for k in range(frames)]


def frames_at(
    episode: sweep.Episode, index: Sequence[int], patches: int | None = None, pool: int = POOL
) -> Tensor:
    """Frames ``[F, 3, 32, 32]`` in [0, 1] of an episode at the given steps.

    Args:
        episode: with ``states`` (sweep world) or ``pixels``.
        index: steps, 0 to ``len(episode)``.
        patches: draw the distracting patches elsewhere and in other colours, from this seed; nothing else changes.
        pool: pictures are averaged over squares of this side; 1 keeps all 64 x 64 pixels.

    Raises:
        UserError: when the episode cannot be drawn.
    """
    if episode.pixels is not None and patches is None:
        return _small(episode.pixels[list(index)], pool)
    if episode.states is None:
        raise UserError("rapl: an episode without pictures cannot be compared; keep its pixels (keep_pixels)")
    start = sweep.Start(**{key: episode.start[key] for key in ("task", "embodiment", "seed")})
    table = sweep.layout([start])
    if patches is not None:
        rng = numpy_generator(patches, "patches", str(start))
        moved = table.patches.copy()
        moved[..., :2] = rng.uniform(-0.9, 0.9, moved[..., :2].shape)
        tints = rng.integers(40, 256, table.tints.shape).astype(np.uint8)
        table = replace(table, patches=moved, tints=tints)
    chosen = episode.states[list(index)]
    return _small(sweep.render(sweep.repeated(table, len(chosen)), sweep.unpacked(chosen)), pool)


def video(episode: sweep.Episode, frames: int = FRAMES, patches: int | None = None) -> Tensor:
    """``[F, 3, 32, 32]`` evenly spaced frames of an episode."""
    return frames_at(episode, spaced(len(episode), frames), patches)


def expert_videos(task: str, embodiment: str, count: int, seed: int, *, split: str = "train") -> Tensor:
    """``[K, F, 3, 32, 32]`` videos of successful expert episodes.

    Raises:
        UserError: when the expert does not succeed often enough.
    """
    found: list[Tensor] = []
    for k in range(4):
        starts = sweep.starts(
            split, 2 * count, seed + 1000 * (k + 1), tasks=(task,), embodiments=(embodiment,)
        )
        for episode in sweep.play(starts, seed=seed):
            if episode.ended_well and len(found) < count:
                found.append(video(episode))
        if len(found) == count:
            return torch.stack(found)
    raise UserError(f"rapl: the expert of {task} with {embodiment} succeeds too rarely for {count} videos")


def _small(pictures: np.ndarray, pool: int) -> Tensor:  # type: ignore[type-arg]
    tensor = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255.0
    return functional.avg_pool2d(tensor, pool)
