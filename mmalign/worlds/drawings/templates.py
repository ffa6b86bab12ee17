"""The first detector: every cell against every template, no learning."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmalign.worlds.drawings.prompts import CLASSES, COLORS
from mmalign.worlds.drawings.scene import CELL, GRID, SIDE, place
from mmalign.worlds.scenes.render import RGB, WINDOW, shape_mask
from mmalign.worlds.scenes.scene import Scene, SceneObject

__all__ = ["Reading", "cells_of", "match_templates"]

_RADII = (5.6, 5.9, 6.3, 6.7, 7.0)
_SHIFTS = range(-2, 3)
_MISFIT = 0.3
"""A template is read when what it leaves unexplained is below this share of its own energy."""
_EMPTY = 0.2
"""A cell is empty when its energy is below this share of the weakest template's."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a detector saw in one picture: objects in raster order, and the cells (0..3) it could not read."""

    objects: tuple[SceneObject, ...]
    unreadable: tuple[int, ...] = ()

    @property
    def scene(self) -> Scene:
        """The objects as a scene, for the facts of the scenes world."""
        return Scene(id="read", seed=0, split="test", objects=self.objects)


def cells_of(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Cut pictures ``[N, 32, 32, 3]`` into cells ``[N, 4, 16, 16, 3]`` in raster order."""
    n = len(pictures)
    return pictures.reshape(n, GRID, CELL, GRID, CELL, 3).swapaxes(2, 3).reshape(n, GRID**2, CELL, CELL, 3)


@dataclass(frozen=True, slots=True)
class _Bank:
    """Masks ``[M, 256]`` of every class, radius and shift, with what each stands for."""

    masks: NDArray[np.float32]
    meaning: Sequence[tuple[str, str, int, int]]


@functools.cache
def _bank() -> _Bank:
    masks, meaning = [], []
    for cls in CLASSES:
        for radius in _RADII:
            full = shape_mask(cls, radius)
            for dy in _SHIFTS:
                for dx in _SHIFTS:
                    canvas = np.zeros((CELL + 2 * WINDOW,) * 2, np.float32)
                    top, left = WINDOW + CELL // 2 + dy - WINDOW // 2, WINDOW + CELL // 2 + dx - WINDOW // 2
                    canvas[top : top + WINDOW, left : left + WINDOW] = full
                    masks.append(canvas[WINDOW : WINDOW + CELL, WINDOW : WINDOW + CELL].ravel())
                    meaning.append((cls, "small" if radius < 6.3 else "large", dx, dy))
    return _Bank(np.stack(masks), meaning)


def match_templates(pictures: NDArray[np.uint8]) -> list[Reading]:
    """Read pictures ``[N, 32, 32, 3]`` by the template of least squared error in every cell.

    The background is the picture's median colour; a template is one class at one radius and shift in one colour over
    it.  A cell is empty when nearly nothing stands out, an object when a template explains at least 70 % of its own
    energy, else unreadable.
    """
    bank, colors = _bank(), np.array([RGB[c] for c in COLORS], np.float32)
    background = np.median(pictures.reshape(len(pictures), SIDE * SIDE, 3), axis=1).astype(np.float32)
    cells = cells_of(pictures).reshape(len(pictures), GRID**2, CELL**2, 3).astype(np.float32)
    squares = (bank.masks**2).sum(1)
    readings = []
    for ground, parts in zip(background, cells, strict=True):
        objects: list[SceneObject] = []
        unreadable: list[int] = []
        contrast = colors - ground
        energy = squares[:, None] * (contrast**2).sum(1)
        for cell, pixels in enumerate(parts):
            apart = pixels - ground
            there = float((apart**2).sum())
            overlap = (bank.masks @ apart) @ contrast.T
            residual = there - 2 * overlap + energy
            m, c = divmod(int(residual.argmin()), len(COLORS))
            if there < _EMPTY * float(energy.min()):
                continue
            if residual[m, c] < _MISFIT * energy[m, c]:
                cls, size, dx, dy = bank.meaning[m]
                objects.append(place(COLORS[c], cls, cell, size, dx, dy))
            else:
                unreadable.append(cell)
        readings.append(Reading(tuple(objects), tuple(unreadable)))
    return readings
