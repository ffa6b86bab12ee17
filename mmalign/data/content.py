"""Content hashes of media: what every cache and comparison of media is keyed by."""

from __future__ import annotations

import hashlib
import mimetypes
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

__all__ = ["answer_digest", "media_digest", "unreadable"]


def media_digest(item: Any) -> str:
    """SHA-256 of one medium: the bytes of a file, the pixels of a picture, the content of an array."""
    digest = hashlib.sha256()
    if isinstance(item, str | Path):
        path = Path(item)
        digest.update(path.read_bytes() if path.is_file() else str(item).encode())
    elif hasattr(item, "tobytes"):
        kind = [getattr(item, name, "") for name in ("mode", "size", "shape", "dtype")]
        digest.update(repr(kind).encode())
        digest.update(item.tobytes())
    else:
        digest.update(repr(item).encode())
    return digest.hexdigest()


def answer_digest(answer: Any) -> str:
    """SHA-256 of an answer or of its recorded steps: text, numbers, tensors, pictures and dataclasses of them.

    Raises:
        TypeError: for an object whose content cannot be read, which a hash of its name would confuse with others.
    """
    digest = hashlib.sha256()
    if answer is None or isinstance(answer, str | int | float | bool):
        digest.update(repr(answer).encode())
    elif isinstance(answer, Mapping):
        for key, value in sorted(answer.items()):
            digest.update(f"{key}={answer_digest(value)};".encode())
    elif isinstance(answer, list | tuple):
        digest.update(";".join(answer_digest(item) for item in answer).encode())
    elif is_dataclass(answer):
        for part in fields(answer):
            digest.update(f"{part.name}={answer_digest(getattr(answer, part.name))};".encode())
    elif hasattr(answer, "detach"):
        digest.update(media_digest(answer.detach().cpu().contiguous().numpy()).encode())
    elif isinstance(answer, Path) or hasattr(answer, "tobytes"):
        digest.update(media_digest(answer).encode())
    else:
        raise TypeError(f"an answer of type {type(answer).__name__} has no content that could be hashed")
    return digest.hexdigest()


def unreadable(item: Any) -> str | None:
    """What is wrong with a medium, or nothing: pictures are decoded, other files must hold something."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(item, str | Path):
        kind = mimetypes.guess_type(str(item))[0] or ""
        if not Path(item).stat().st_size:
            return f"{item} is empty"
        if not kind.startswith("image/"):
            return None
    elif not isinstance(item, Image.Image):
        return None
    try:
        if isinstance(item, Image.Image):
            item.load()
        else:
            with Image.open(item) as picture:
                picture.load()
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        return f"{item} is no readable image ({error})"
    return None
