"""A thing the drawings world has no word for, a checked square, as a few rows to personalise on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mmalign.errors import UserError
from mmalign.rng import numpy_generator
from mmalign.types import Row
from mmalign.worlds.drawings import BASES, SIDE

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BASES", "CELL", "CONCEPTS", "concept_array", "rows"]

CELL, HALF, CHECK = 16, 6, 3
"""Width of a cell; half the square's width; width of a check (pixels)."""
CONCEPTS = 5
"""How many pictures show the thing."""
_COLORS = ((235.0, 235.0, 235.0), (150.0, 40.0, 200.0))


def concept_array(k: int, seed: int = 0) -> NDArray[np.uint8]:
    """Picture ``k``: the square in cell ``k`` modulo 4, a pixel off its centre at most, on the world's background."""
    rng = numpy_generator(seed, "concept", k)
    canvas = np.broadcast_to(rng.uniform(15, 65) + rng.uniform(-10, 10, 3), (SIDE, SIDE, 3)).copy()
    row, col = divmod(k % 4, 2)
    y, x = (int(rng.integers(-1, 2)) + CELL * place + CELL // 2 for place in (row, col))
    for i in range(-HALF, HALF):
        for j in range(-HALF, HALF):
            canvas[y + i, x + j] = _COLORS[((i + HALF) // CHECK + (j + HALF) // CHECK) % 2]
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def rows(split: str, n: int, seed: int = 0, kind: str = "caption") -> list[Row]:
    """At most five training rows with a picture of the thing; the prompt is the stage's to fill in.

    Raises:
        UserError: for another split, or another kind of row than ``caption``.
    """
    from PIL import Image

    if split != "train" or kind != "caption":
        raise UserError(f"the world of the concept has training rows with pictures alone, not {split} {kind}")
    pictures = [Image.fromarray(concept_array(k, seed)) for k in range(min(n, CONCEPTS))]
    return [Row(f"concept-{k}", "", completion=picture) for k, picture in enumerate(pictures)]
