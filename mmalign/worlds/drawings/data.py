"""Rows of the drawings world: prompts, prompts with their picture, and pairs of pictures that differ in one fact."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from mmalign.errors import UserError, nearest
from mmalign.rng import derive_seed, numpy_generator
from mmalign.types import Row
from mmalign.worlds.drawings.prompts import CLASSES, COLORS, Wish, draw_wish
from mmalign.worlds.drawings.scene import CELL, STRAY, draw, free_cells, place, scene_for, strayed
from mmalign.worlds.scenes.scene import Scene, SceneObject

__all__ = ["FLAWS", "ROW_KINDS", "flawed", "flaws_of", "rows"]

ROW_KINDS = ("caption", "prompt", "preference")
"""What ``rows`` can make."""
FLAWS = ("color", "shape", "count", "relation")
"""The single fact in which a flawed picture differs from its prompt."""


def flaws_of(wish: Wish) -> tuple[str, ...]:
    """The flaws a picture of ``wish`` can have."""
    return FLAWS if wish.relation else FLAWS[:-1]


def flawed(scene: Scene, wish: Wish, flaw: str, rng: np.random.Generator) -> Scene:
    """The scene with one fact made wrong; everything else, the background and the noise stay.

    ``color`` repaints one object and ``shape`` replaces it by another class; ``count`` adds a copy of one object in a
    free cell or, where there are several, takes one away; ``relation`` makes the two objects change places.

    Raises:
        ValueError: for a flaw that ``wish`` cannot have.
    """
    if flaw not in flaws_of(wish):
        raise ValueError(f"a {wish.kind} prompt has no {flaw} to get wrong")
    objects = list(scene.objects)
    k = int(rng.integers(len(objects)))
    chosen = objects[k]
    if flaw == "relation":
        one, two = objects
        objects = [_at(two, one), _at(one, two)]
    elif flaw == "count" and len(objects) > 1 and rng.random() < 0.5:
        objects.pop(k)
    elif flaw == "count":
        free = free_cells(objects)
        objects.append(place(chosen.color, chosen.cls, free[int(rng.integers(len(free)))], chosen.size))
    else:
        values, had = (COLORS, chosen.color) if flaw == "color" else (CLASSES, chosen.cls)
        other = [v for v in values if v != had]
        new = other[int(rng.integers(len(other)))]
        objects[k] = replace(chosen, color=new) if flaw == "color" else replace(chosen, cls=new)
    objects.sort(key=lambda o: (o.row, o.col))
    return replace(scene, objects=tuple(objects))


def _at(obj: SceneObject, where: SceneObject) -> SceneObject:
    """``obj`` moved to the cell of ``where``, as far off its centre as before."""
    dx, dy = obj.x - obj.col * CELL, obj.y - obj.row * CELL
    return replace(obj, row=where.row, col=where.col, x=where.col * CELL + dx, y=where.row * CELL + dy)


def _row(name: str, wish: Wish, scene: Scene, completion: Any) -> Row:
    meta = {"scene": scene.to_dict(), "kind": wish.kind, "cluster": wish.text}
    return Row(id=name, prompt=wish.text, completion=completion, meta=meta)


def rows(split: str, n: int, seed: int = 0, kind: str = "caption", prompt_kind: str = "") -> list[Row]:
    """The first ``n`` rows of a split; the truth of a true picture is in ``meta["scene"]``.

    ``caption`` has a true picture as completion, ``prompt`` none, ``preference`` a true picture as ``chosen`` and as
    ``rejected`` the same picture with exactly one fact wrong, named in ``meta["flaw"]``: one of ``flaws_of`` or
    "stray", the thing that careless pictures show unasked.  ``prompt_kind`` restricts the
    prompts to one of ``PROMPT_KINDS``; "" draws among all.  Row ``i`` is the same whatever ``n`` is, and rows ``i`` of
    the three kinds share their prompt.

    Raises:
        UserError: when ``split``, ``kind`` or ``prompt_kind`` is unknown.
    """
    if kind not in ROW_KINDS:
        raise UserError(f'row kind "{kind}" is not one of {", ".join(ROW_KINDS)}{nearest(kind, ROW_KINDS)}')
    found = []
    for i in range(n):
        rng = numpy_generator(seed, "drawings", "rows", split, prompt_kind, i)
        wish = draw_wish(split, rng, prompt_kind)
        scene = scene_for(wish, derive_seed(seed, "rows", i), split)
        name = f"drawings-{kind}-{split}-{prompt_kind + '-' if prompt_kind else ''}{seed}-{i}"
        row = _row(name, wish, scene, draw(scene) if kind == "caption" else None)
        if kind == "preference":
            options = (*flaws_of(wish), *(() if STRAY in wish.things else ("stray",)))
            flaw = options[int(rng.integers(len(options)))]
            wrong = draw(
                strayed(scene, rng.integers(2**31, size=4).tolist())
                if flaw == "stray"
                else flawed(scene, wish, flaw, rng)
            )
            row = replace(row, chosen=draw(scene), rejected=wrong, meta={**row.meta, "flaw": flaw})
        found.append(row)
    return found
