"""Putting answers and shown media of any modality into plain files beside ``samples.jsonl``."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from mmalign.protocols import Shows
from mmalign.types import Row

__all__ = ["keep_media", "plain_output", "safe_name"]

_SUFFIX = {"images": "png", "audio": "wav"}


def safe_name(identifier: str) -> str:
    """Return a file name for an id: readable, and distinct for distinct ids."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", identifier).strip("-.")[:60] or "row"
    return plain if plain == identifier else f"{plain}-{hashlib.sha256(identifier.encode()).hexdigest()[:8]}"


def plain_output(output: Any, identifier: str, folder: Path) -> Any:
    """Return ``output`` as JSON: text stays, anything else becomes a file under ``outputs/``.

    A picture becomes a PNG, an array or tensor an ``.npy``; any other answer (a sound, an episode) writes itself with
    ``save_as(stem) -> Path``, ``stem`` being the path without a suffix.

    Raises:
        TypeError: for an answer that is none of these.
    """
    if output is None or isinstance(output, (str, int, float, bool)):
        return output
    if isinstance(output, (list, tuple, dict)) and not any(hasattr(item, "shape") for item in output):
        return output
    target = folder / "outputs" / safe_name(identifier)
    target.parent.mkdir(parents=True, exist_ok=True)
    if hasattr(output, "save_as"):
        path = Path(output.save_as(target))
    elif hasattr(output, "save") and hasattr(output, "mode"):
        path = target.with_name(target.name + ".png")
        output.save(path)
    elif hasattr(output, "shape") or isinstance(output, (list, tuple)):
        import numpy as np

        path = target.with_name(target.name + ".npy")
        array = output.detach().cpu().numpy() if hasattr(output, "detach") else np.asarray(output)
        np.save(path, array, allow_pickle=False)
    else:
        raise TypeError(
            f"an answer of type {type(output).__name__} has no save_as and is no picture or array"
        )
    return {"file": f"outputs/{path.name}", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def keep_media(adapter: Any, row: Row, folder: Path) -> list[str]:
    """Write what the adapter shows of a row under ``media/`` and return the relative paths."""
    if not isinstance(adapter, Shows):
        return []
    shown = adapter.show(row)
    kept: list[str] = []
    for kind, suffix in _SUFFIX.items():
        for number, content in enumerate(shown.get(kind) or ()):
            path = folder / "media" / f"{safe_name(row.id)}-{number}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                temporary = path.with_name(f".{path.name}.tmp")
                temporary.write_bytes(content)
                temporary.replace(path)
            kept.append(f"media/{path.name}")
    return kept
