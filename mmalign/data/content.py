"""Content hashes of media: what every cache and comparison of media is keyed by."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

__all__ = ["media_digest"]


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
