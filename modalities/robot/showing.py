"""Starts and episodes as pictures and words for the report."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmalign.modalities.robot.environments import sweep_start
from mmalign.modalities.robot.options import RobotOptions
from mmalign.types import Row
from mmalign.worlds import sweep

__all__ = ["shown"]

_ZOOM = 3


def shown(row: Row, options: RobotOptions) -> Mapping[str, Any]:
    """The start's picture (sweep), the last picture of an answer, and both in words."""
    pictures: list[NDArray[np.uint8]] = []
    if options.environment == "sweep":
        batch = sweep.SweepBatch([sweep_start(row, options.embodiment)])
        batch.reset()
        pictures.append(batch.frames()[0])
    text = str(row.prompt)
    if isinstance(row.completion, sweep.Episode):
        pictures += list(row.completion.frames()[-1:])
        text += f" -> {row.completion}"
    return {"images": [_png(picture) for picture in pictures], "text": text}


def _png(picture: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    wide, high = picture.shape[1] * _ZOOM, picture.shape[0] * _ZOOM
    Image.fromarray(picture).resize((wide, high), Image.Resampling.NEAREST).save(buffer, format="PNG")
    return buffer.getvalue()
