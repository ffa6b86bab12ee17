"""Drawing a scene: cached shape masks, opacity, stripes, partial occlusion, blur and noise."""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mmalign.rng import numpy_generator
from mmalign.worlds.scenes.scene import SIDE, Scene, SceneObject
from mmalign.worlds.scenes.words import CLASSES

__all__ = ["RADIUS", "RGB", "WINDOW", "class_map", "render", "render_array", "shape_mask", "window_of"]

RGB = {
    "red": (220, 40, 40),
    "green": (50, 190, 60),
    "blue": (60, 90, 235),
    "yellow": (235, 215, 50),
    "purple": (170, 60, 200),
    "white": (240, 240, 240),
}
"""Colour name to its mean red, green, blue value."""
RADIUS = {"small": 5.0, "large": 7.5}
"""Half the width of a shape in pixels."""
WINDOW = 18
"""Width of the window in which a shape is drawn, in pixels."""
_SCALE = 8
_STAR = [(math.sin(k * math.pi / 5), -math.cos(k * math.pi / 5)) for k in range(10)]
_POLYGONS: dict[str, list[tuple[float, float]]] = {
    "triangle": [(0, -1), (1, 0.85), (-1, 0.85)],
    "diamond": [(0, -1), (0.72, 0), (0, 1), (-0.72, 0)],
    "star": [
        (x * (0.42 if k % 2 else 1.08), y * (0.42 if k % 2 else 1.08)) for k, (x, y) in enumerate(_STAR)
    ],
    "square": [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
}


@functools.lru_cache(maxsize=64)
def shape_mask(cls: str, radius: float) -> NDArray[np.float32]:
    """Coverage ``[18, 18]`` in 0..1 of a shape of ``radius`` pixels centred in its window."""
    side, r = WINDOW * _SCALE, radius * _SCALE
    c = side / 2
    image = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(image)

    def box(x: float, y: float, rx: float, ry: float) -> tuple[float, float, float, float]:
        return (c + (x - rx) * r, c + (y - ry) * r, c + (x + rx) * r, c + (y + ry) * r)

    if cls in _POLYGONS:
        draw.polygon([(c + x * r, c + y * r) for x, y in _POLYGONS[cls]], fill=255)
    elif cls == "circle":
        draw.ellipse(box(0, 0, 0.95, 0.95), fill=255)
    elif cls == "ring":
        draw.ellipse(box(0, 0, 1, 1), fill=255)
        draw.ellipse(box(0, 0, 0.52, 0.52), fill=0)
    elif cls == "cross":
        draw.rectangle(box(0, 0, 1, 0.32), fill=255)
        draw.rectangle(box(0, 0, 0.32, 1), fill=255)
    else:
        draw.ellipse(box(-0.48, -0.4, 0.52, 0.5), fill=255)
        draw.ellipse(box(0.48, -0.4, 0.52, 0.5), fill=255)
        draw.polygon([(c - 0.97 * r, c - 0.2 * r), (c + 0.97 * r, c - 0.2 * r), (c, c + r)], fill=255)
    small = np.asarray(image, np.float32).reshape(WINDOW, _SCALE, WINDOW, _SCALE).mean((1, 3)) / 255.0
    return small.astype(np.float32)


def _cover(mask: NDArray[np.float32], side: str, radius: float) -> NDArray[np.float32]:
    """Hide the outer part of one side: about a quarter of the shape's width."""
    if not side:
        return mask
    mask = mask.copy()
    cut = round(radius * 0.5)
    lo, hi = int(WINDOW / 2 - radius) + cut, int(WINDOW / 2 + radius + 0.5) - cut
    if side == "left":
        mask[:, :lo] = 0
    elif side == "right":
        mask[:, hi:] = 0
    elif side == "top":
        mask[:lo] = 0
    else:
        mask[hi:] = 0
    return mask


def _paint(canvas: NDArray[np.float32], obj: SceneObject, rng: np.random.Generator) -> None:
    """Blend one object onto the canvas ``[64, 64, 3]`` in place."""
    mask = _visible(obj) * np.float32(obj.alpha)
    color = np.array(RGB[obj.color], np.float32) + rng.uniform(-18, 18, 3).astype(np.float32)
    shade = np.ones((WINDOW, WINDOW, 1), np.float32)
    if obj.texture == "striped":
        shade[(np.arange(WINDOW) % 4) < 2] = 0.4
    place, window = window_of(obj)
    a = mask[window][..., None]
    paint = (shade * color)[window]
    canvas[place] = canvas[place] * (1 - a) + paint * a


def _visible(obj: SceneObject) -> NDArray[np.float32]:
    """Coverage of an object's window, less the side that is hidden."""
    return _cover(shape_mask(obj.cls, RADIUS[obj.size]), obj.hidden, RADIUS[obj.size])


def window_of(obj: SceneObject, side: int = SIDE) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where an object's window lies on a picture ``side`` pixels wide, and which part of the window that is."""
    top, left = obj.y - WINDOW // 2, obj.x - WINDOW // 2
    y0, y1, x0, x1 = max(top, 0), min(top + WINDOW, side), max(left, 0), min(left + WINDOW, side)
    return (slice(y0, y1), slice(x0, x1)), (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))


def class_map(scene: Scene) -> NDArray[np.int64]:
    """What every pixel shows, ``[64, 64]``: 0 is the background, ``k + 1`` the class ``CLASSES[k]``.

    A pixel is an object's where the object covers half of it or more; the one painted last counts.
    """
    found = np.zeros((SIDE, SIDE), dtype=np.int64)
    for obj in scene.objects:
        place, window = window_of(obj)
        found[place][_visible(obj)[window] >= 0.5] = CLASSES.index(obj.cls) + 1
    return found


def _blur(canvas: NDArray[np.float32]) -> NDArray[np.float32]:
    """A 3-tap binomial blur on both axes."""
    for axis in (0, 1):
        pad = [(1, 1) if a == axis else (0, 0) for a in range(3)]
        p = np.pad(canvas, pad, mode="edge")
        before, after = np.delete(p, [-1, -2], axis), np.delete(p, [0, 1], axis)
        canvas = 0.25 * before + 0.5 * canvas + 0.25 * after
    return canvas


def render_array(scene: Scene) -> NDArray[np.uint8]:
    """The picture of a scene as ``[64, 64, 3]`` bytes; depends on the scene alone."""
    rng = numpy_generator(scene.seed, "render")
    base = rng.uniform(20, 90) + rng.uniform(-12, 12, 3)
    slope = rng.uniform(-20, 20, 2)
    ramp = np.linspace(-0.5, 0.5, SIDE, dtype=np.float32)
    plane = (slope[0] * ramp[:, None] + slope[1] * ramp[None, :])[..., None]
    canvas = (base[None, None, :] + plane).astype(np.float32)
    for obj in scene.objects:
        _paint(canvas, obj, rng)
    if rng.random() < 0.3:
        canvas = _blur(canvas)
    canvas = canvas + rng.standard_normal(canvas.shape, np.float32) * np.float32(rng.uniform(2, 12))
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def render(scene: Scene) -> Image.Image:
    """The picture of a scene, 64 by 64 RGB."""
    return Image.fromarray(render_array(scene), "RGB")
