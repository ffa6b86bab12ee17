"""Both detectors by name, on pictures of any kind a policy may answer with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmalign.errors import UserError, nearest
from mmalign.worlds.drawings.scene import SIDE
from mmalign.worlds.drawings.templates import Reading, match_templates

__all__ = ["DETECTORS", "detect", "pixels_of"]

DETECTORS = ("template", "network")
"""The template matcher, which learns nothing, and the network that reads cells."""


def pixels_of(picture: Any) -> NDArray[np.uint8]:
    """A picture as ``[32, 32, 3]`` bytes: a PIL image (resized where it is larger) or such an array.

    Raises:
        UserError: when it is no picture.
    """
    if isinstance(picture, Image.Image):
        image = picture.convert("RGB")
        if image.size != (SIDE, SIDE):
            image = image.resize((SIDE, SIDE), Image.Resampling.BOX)
        return np.asarray(image)
    if isinstance(picture, np.ndarray) and picture.shape == (SIDE, SIDE, 3) and picture.dtype == np.uint8:
        return picture
    raise UserError(
        f"a drawing is a picture or a [{SIDE}, {SIDE}, 3] array of bytes, found {type(picture).__name__}"
    )


def detect(pictures: Sequence[Any], detector: str = "template") -> list[Reading]:
    """What a detector sees in every picture.

    Raises:
        UserError: for an unknown detector or an answer that is no picture.
    """
    if detector not in DETECTORS:
        raise UserError(
            f'detector "{detector}" is not one of {", ".join(DETECTORS)}{nearest(detector, DETECTORS)}'
        )
    if not pictures:
        return []
    pixels = np.stack([pixels_of(picture) for picture in pictures])
    if detector == "template":
        return match_templates(pixels)
    from mmalign.worlds.drawings.cells import read_cells

    return read_cells(pixels)
