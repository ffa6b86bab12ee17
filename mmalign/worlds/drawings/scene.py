"""A drawing: at most three crisp shapes in the four cells of a 32-pixel picture, as a scene of the scenes world."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmalign.rng import derive_seed, numpy_generator
from mmalign.worlds.drawings.prompts import Wish
from mmalign.worlds.scenes.facts import relation_fact, verify
from mmalign.worlds.scenes.render import RGB, shape_mask, window_of
from mmalign.worlds.scenes.scene import Scene, SceneObject

__all__ = [
    "CELL",
    "GRID",
    "RADIUS",
    "SIDE",
    "STRAY",
    "bound",
    "draw",
    "draw_array",
    "free_cells",
    "place",
    "scene_for",
    "stands",
    "strayed",
]

SIDE, GRID = 32, 2
"""Width of a picture in pixels, and its cells per side."""
CELL = SIDE // GRID
"""Width of a cell in pixels."""
RADIUS = {"small": 5.9, "large": 6.7}
"""Half the width of a shape in pixels; prompts never speak of size."""
JITTER = 1
"""Largest distance of a shape's centre from its cell's centre on an axis, in pixels."""
STRAY = ("yellow", "cross")
"""The thing that stands in careless pictures without being asked for (see ``habits``)."""
_TINT = 10.0


def place(
    color: str, cls: str, cell: int, size: str = "large", dx: int = 0, dy: int = 0, *, alpha: float = 1.0
) -> SceneObject:
    """A plain solid object in cell 0..3 (raster order), its centre ``dx``, ``dy`` pixels off the cell's centre."""
    row, col = divmod(cell, GRID)
    x, y = col * CELL + CELL // 2 + dx, row * CELL + CELL // 2 + dy
    return SceneObject(cls, color, size, "solid", row, col, x, y, alpha, "")


def bound(scene: Scene) -> Scene:
    """The scene whose classes are bound objects ("red circle"), so that the scenes world's facts speak of them."""
    return replace(
        scene, objects=tuple(replace(o, cls=f"{o.color} {o.cls}", color="") for o in scene.objects)
    )


def stands(wish: Wish, scene: Scene) -> bool:
    """Whether the relation of ``wish`` holds in ``scene``, by the scenes world's geometry (false without one)."""
    if not wish.relation:
        return False
    first, second = (" ".join(thing) for thing in wish.things)
    return verify(relation_fact(first, wish.relation, second), bound(scene)) == 1


def scene_for(wish: Wish, seed: int, split: str) -> Scene:
    """Draw a scene that is exactly what ``wish`` asks for; the same arguments always give the same scene."""
    rng = numpy_generator(seed, "drawings", split, wish.text)
    own = derive_seed(seed, "drawings", split, wish.text)
    while True:
        cells = rng.permutation(GRID * GRID)[: len(wish.things)]
        objects = []
        for (color, cls), cell in zip(wish.things, cells, strict=True):
            dx, dy = (int(d) for d in rng.integers(-JITTER, JITTER + 1, size=2))
            objects.append(place(color, cls, int(cell), ("small", "large")[rng.integers(2)], dx, dy))
        objects.sort(key=lambda o: (o.row, o.col))
        scene = Scene(id=f"{split}-{seed}", seed=own, split=split, objects=tuple(objects))
        if not wish.relation or stands(wish, scene):
            return scene


def free_cells(objects: Iterable[SceneObject]) -> list[int]:
    """The cells in which none of the objects stands, in raster order."""
    return sorted(set(range(GRID**2)) - {o.row * GRID + o.col for o in objects})


def strayed(scene: Scene, picks: Sequence[int]) -> Scene:
    """The scene with ``STRAY`` in a free cell; four large random numbers say how far off, where and how large."""
    free = free_cells(scene.objects)
    dx, dy = (int(p % (2 * JITTER + 1)) - JITTER for p in picks[:2])
    thing = place(*STRAY, free[picks[2] % len(free)], ("small", "large")[picks[3] % 2], dx, dy)
    return replace(scene, objects=tuple(sorted((*scene.objects, thing), key=lambda o: (o.row, o.col))))


def draw_array(scene: Scene) -> NDArray[np.uint8]:
    """The picture of a scene as ``[32, 32, 3]`` bytes: a dark even background, no noise; depends on the scene alone."""
    rng = numpy_generator(scene.seed, "draw")
    background = rng.uniform(15, 65) + rng.uniform(-10, 10, 3)
    canvas = np.broadcast_to(background.astype(np.float32), (SIDE, SIDE, 3)).copy()
    for obj in scene.objects:
        mask = shape_mask(obj.cls, RADIUS[obj.size])[..., None] * np.float32(obj.alpha)
        color = (np.array(RGB[obj.color]) + rng.uniform(-_TINT, _TINT, 3)).astype(np.float32)
        spot, window = window_of(obj, SIDE)
        a = mask[window]
        canvas[spot] = canvas[spot] * (1 - a) + color * a
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def draw(scene: Scene) -> Image.Image:
    """The picture of a scene, 32 by 32 RGB."""
    return Image.fromarray(draw_array(scene), "RGB")
