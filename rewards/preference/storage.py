"""The JSON file beside a preference reward model's weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmalign.errors import UserError

__all__ = ["read_record", "write_record"]

FILE = "reward_model.json"


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write options, width and view of a model."""
    text = json.dumps({"kind": "preference", **record}, indent=1)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")


def read_record(folder: Path) -> dict[str, Any]:
    """``reward_model.json`` of a saved preference reward model.

    Raises:
        UserError: when the folder holds none.
    """
    file = Path(folder) / FILE
    record = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if record.get("kind") != "preference":
        raise UserError(f"{folder}: holds no preference reward model ({FILE} of kind preference)")
    found: dict[str, Any] = record
    return found
