"""A scene: two to five shapes on a four by four grid, drawn from a seed with deliberate priors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mmalign.errors import UserError, nearest
from mmalign.rng import derive_seed, numpy_generator
from mmalign.worlds.scenes.words import (
    CLASS_WEIGHTS,
    CLASSES,
    COLORS,
    FAVOURITE_COLOR,
    PARTNER,
    SIZES,
    TEXTURES,
)

__all__ = ["CELL", "GRID", "MARGIN", "SIDE", "SPLITS", "Scene", "SceneObject", "generate"]

SIDE = 64
"""Width and height of a picture in pixels."""
GRID = 4
"""Cells per side."""
CELL = SIDE // GRID
"""Width of a cell in pixels."""
MARGIN = 8
"""Two objects closer than this on an axis (pixels) stand in no relation on that axis."""
SPLITS = ("train", "validation", "test")
"""The splits; each derives its scenes from its own name, so no scene is shared."""
JITTER = 2
_COUNTS = (0.2, 0.35, 0.3, 0.15)
_P_THEME, _P_FAVOURITE, _P_DUPLICATE, _P_OCCLUDED = 0.55, 0.5, 0.2, 0.2


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One shape: what it is, where it stands (centre in pixels) and how it is drawn.

    ``hidden`` names the side that is partly covered ("" for none), ``alpha`` is the opacity.
    """

    cls: str
    color: str
    size: str
    texture: str
    row: int
    col: int
    x: int
    y: int
    alpha: float
    hidden: str


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture's full truth.  Objects stand in raster order; ``seed`` also drives the rendering."""

    id: str
    seed: int
    split: str
    objects: tuple[SceneObject, ...]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary from which ``from_dict`` rebuilds the same scene."""
        return asdict(self) | {"objects": [asdict(o) for o in self.objects]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Scene:
        """Rebuild a scene from ``to_dict``."""
        objects = tuple(SceneObject(**o) for o in data["objects"])
        return cls(id=data["id"], seed=data["seed"], split=data["split"], objects=objects)

    def count(self, cls: str) -> int:
        """How many objects of class ``cls`` the scene holds."""
        return sum(o.cls == cls for o in self.objects)

    def classes(self) -> tuple[str, ...]:
        """The classes present, each once, in raster order."""
        return tuple(dict.fromkeys(o.cls for o in self.objects))


def _draw_classes(rng: np.random.Generator, n: int) -> list[str]:
    """Draw ``n`` classes: mostly theme partners together, about a fifth of scenes with a duplicate."""
    weights = np.array([CLASS_WEIGHTS[c] for c in CLASSES])
    chosen = [CLASSES[rng.choice(len(CLASSES), p=weights / weights.sum())]]
    duplicate = n >= 2 and rng.random() < _P_DUPLICATE
    while len(chosen) < n - int(duplicate):
        wanted = [PARTNER[c] for c in chosen if PARTNER[c] not in chosen]
        if wanted and rng.random() < _P_THEME:
            chosen.append(wanted[0])
            continue
        free = weights * np.array([c not in chosen for c in CLASSES])
        chosen.append(CLASSES[rng.choice(len(CLASSES), p=free / free.sum())])
    if duplicate:
        chosen.append(chosen[rng.integers(len(chosen))])
    return chosen


def _draw_object(rng: np.random.Generator, cls: str, cell: int) -> SceneObject:
    """Draw one object of class ``cls`` into grid cell ``cell``."""
    row, col = divmod(int(cell), GRID)
    dx, dy = rng.integers(-JITTER, JITTER + 1, size=2)
    color = FAVOURITE_COLOR[cls]
    if rng.random() >= _P_FAVOURITE:
        color = COLORS[rng.integers(len(COLORS))]
    hidden = ("left", "right", "top", "bottom")[rng.integers(4)] if rng.random() < _P_OCCLUDED else ""
    return SceneObject(
        cls=cls,
        color=color,
        size=SIZES[rng.integers(2)],
        texture=TEXTURES[int(rng.random() < 0.45)],
        row=row,
        col=col,
        x=col * CELL + CELL // 2 + int(dx),
        y=row * CELL + CELL // 2 + int(dy),
        alpha=round(float(rng.uniform(0.6, 1.0)), 3),
        hidden=hidden,
    )


def generate(seed: int, split: str) -> Scene:
    """Draw the scene number ``seed`` of a split; the same pair always gives the same scene.

    Raises:
        UserError: when ``split`` is not train, validation or test.
    """
    if split not in SPLITS:
        raise UserError(f'split "{split}" is not one of {", ".join(SPLITS)}{nearest(split, SPLITS)}')
    own = derive_seed(seed, "scenes", split)
    rng = numpy_generator(own, "objects")
    n = 2 + int(rng.choice(len(_COUNTS), p=_COUNTS))
    classes = _draw_classes(rng, n)
    cells = rng.permutation(GRID * GRID)[:n]
    objects = [_draw_object(rng, cls, cell) for cls, cell in zip(classes, cells, strict=True)]
    objects.sort(key=lambda o: (o.row, o.col))
    return Scene(id=f"{split}-{seed}", seed=own, split=split, objects=tuple(objects))
