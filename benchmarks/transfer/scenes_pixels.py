"""``scenes-pixels``: the class of the object that every pixel of a scene shows, from the world's exact masks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mmalign.benchmarks.transfer.arrays import Arrays, check_split
from mmalign.errors import UserError
from mmalign.protocols.transfer import TransferTask
from mmalign.rng import numpy_generator
from mmalign.worlds.scenes.data import scene_at
from mmalign.worlds.scenes.render import class_map, render_array
from mmalign.worlds.scenes.scene import SIDE
from mmalign.worlds.scenes.words import CLASSES

__all__ = ["SIZES", "ScenesPixels"]

SIZES: Mapping[str, int] = {"train": 800, "val": 200, "test": 500}
"""Windows per split, each of another scene."""
_WORLD_SPLIT = {"train": "train", "val": "validation", "test": "test"}


class ScenesPixels:
    """One task: background or one of the eight classes of object for every pixel of a window of a scene.

    Args:
        size: width and height of the window in pixels, at most 64 (the whole scene); it lies around one object, shifted
            at random.
        seed: draws scenes and windows.

    Raises:
        UserError: for a window that is larger than a scene.
    """

    name = "scenes-pixels"
    backbone = "mini-vit"

    def __init__(self, size: int = 24, seed: int = 0) -> None:
        if not 1 <= size <= SIDE:
            raise UserError(f"scenes-pixels: a window is 1 to {SIDE} pixels wide, not {size}")
        self.size, self.seed = size, seed

    def tasks(self) -> tuple[TransferTask, ...]:
        """The one task; scored by mean intersection over union."""
        return (TransferTask("classes", "scenes", "pixels", len(CLASSES) + 1),)

    def data(self, task: TransferTask, split: str) -> Arrays:
        """The windows of a split.

        Raises:
            UserError: for an unknown split.
        """
        check_split(self.name, split)
        rng = numpy_generator(self.seed, self.name, split)
        images, labels = [], []
        for index in range(SIZES[split]):
            scene = scene_at(_WORLD_SPLIT[split], self.seed, index)
            centre = scene.objects[int(rng.integers(len(scene.objects)))]
            shift = rng.integers(-self.size // 4, self.size // 4 + 1, 2)
            top, left = (
                int(np.clip(middle + moved - self.size // 2, 0, SIDE - self.size))
                for middle, moved in zip((centre.y, centre.x), shift, strict=True)
            )
            place = (slice(top, top + self.size), slice(left, left + self.size))
            images.append(render_array(scene)[place].transpose(2, 0, 1))
            labels.append(class_map(scene)[place])
        return Arrays(np.stack(images), np.stack(labels))
