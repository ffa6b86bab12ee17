"""Opening, blanking and naming the images of a row."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from mmalign.errors import UserError

__all__ = ["blank_image", "content_key", "open_image", "png_bytes"]

GREY = 128
"""The level of a blanked pixel; not 127.5, because some processors drop images that normalise to exact zeros."""


def open_image(media: Any, row_id: str) -> Image.Image:
    """Return ``media`` (path, PIL image or array) as a fully decoded RGB image.

    Raises:
        UserError: when the file is missing, unreadable or truncated, or the value is no image.
    """
    if isinstance(media, Image.Image):
        return _decode(media, row_id, getattr(media, "filename", "") or "an in-memory image")
    if isinstance(media, (str, os.PathLike)):
        path = Path(media)
        if not path.is_file():
            raise UserError(f'row "{row_id}": image file "{path}" does not exist')
        try:
            with Image.open(path) as image:
                return _decode(image, row_id, str(path))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError(
                f'row "{row_id}": "{path}" is not a readable image ({_first_line(error)})'
            ) from error
    if isinstance(media, np.ndarray) or hasattr(media, "__array__"):
        return _from_array(np.asarray(media), row_id)
    raise UserError(
        f'row "{row_id}": media must be a path, a PIL image or an array, not {type(media).__name__}'
    )


def blank_image(media: Any, row_id: str) -> Image.Image:
    """Return a mid-grey RGB image of the same size as ``media``."""
    return Image.new("RGB", open_image(media, row_id).size, (GREY, GREY, GREY))


def content_key(media: Any, row_id: str) -> str:
    """Return a short name that changes whenever the picture does (path + mtime + size, or a hash)."""
    if isinstance(media, (str, os.PathLike)):
        path = Path(media)
        if not path.is_file():
            raise UserError(f'row "{row_id}": image file "{path}" does not exist')
        stat = path.stat()
        return f"{path.resolve()}|{stat.st_mtime_ns}|{stat.st_size}"
    image = open_image(media, row_id)
    return f"{image.size}|{hashlib.sha1(image.tobytes(), usedforsecurity=False).hexdigest()}"


def png_bytes(media: Any, row_id: str) -> bytes:
    """Return ``media`` encoded as PNG."""
    buffer = io.BytesIO()
    open_image(media, row_id).save(buffer, format="PNG")
    return buffer.getvalue()


def _decode(image: Image.Image, row_id: str, name: str) -> Image.Image:
    try:
        image.load()
        return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f'row "{row_id}": "{name}" is not a readable image ({_first_line(error)})') from error


def _from_array(array: np.ndarray, row_id: str) -> Image.Image:
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[-1] not in (1, 3, 4):
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (3, 4)):
        raise UserError(
            f'row "{row_id}": an image array must be [H, W] or [H, W, 3], not {list(array.shape)}'
        )
    if array.dtype != np.uint8:
        scale = 255.0 if np.issubdtype(array.dtype, np.floating) else 1.0
        array = np.clip(np.rint(array.astype(np.float64) * scale), 0, 255).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(array)).convert("RGB")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
