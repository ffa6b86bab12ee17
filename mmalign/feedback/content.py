"""What a judge's answer depends on, as a hash; and media written beside the feedback."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmalign.data.content import media_digest
from mmalign.types import Row

__all__ = ["evidence_digest", "png_bytes", "store_media"]


def evidence_digest(judge: Any, row: Row) -> str:
    """Hash of what ``judge`` looks at: ``judge.evidence(row)`` where it has one, else the media."""
    evidence = getattr(judge, "evidence", None)
    if evidence is not None:
        return hashlib.sha256(str(evidence(row)).encode()).hexdigest()
    return hashlib.sha256(" ".join(media_digest(item) for item in row.media).encode()).hexdigest()


def png_bytes(item: Any) -> bytes:
    """An image (PIL or a path to one) as PNG bytes."""
    from PIL import Image

    image = Image.open(item) if isinstance(item, (str, Path)) else item
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def store_media(media: Sequence[Any], folder: Path) -> list[str]:
    """Return a path per medium; PIL images are written once under ``folder`` by content hash.

    Paths come back relative to the parent of ``folder`` where they were written there; others as given.
    Arrays and other objects have no file form and are left out.
    """
    names = []
    for item in media:
        if isinstance(item, (str, Path)):
            names.append(str(item))
        elif hasattr(item, "save") and hasattr(item, "tobytes"):
            path = folder / f"{media_digest(item)[:24]}.png"
            if not path.exists():
                folder.mkdir(parents=True, exist_ok=True)
                temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
                temporary.write_bytes(png_bytes(item))
                os.replace(temporary, path)
            names.append(f"{folder.name}/{path.name}")
    return names
