"""Reading benchmark files as they are found in the wild: JSON lines or a JSON array, whatever the suffix."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmalign.data.jsonl import read_jsonl
from mmalign.errors import UserError, nearest

__all__ = ["find_media", "open_records", "require"]


def open_records(path: str | Path | None, *, task: str) -> list[dict[str, Any]]:
    """Return the records of a JSON-lines file or a JSON array.

    Raises:
        UserError: when no path is given, the file is missing, or it holds anything else.
    """
    if path is None:
        raise UserError(f"task {task} needs its file: give --data PATH (JSON lines or a JSON array)")
    file = Path(path)
    if not file.is_file():
        siblings = [p.name for p in file.parent.glob("*")] if file.parent.is_dir() else []
        raise UserError(f"{file}: no such file{nearest(file.name, siblings)}")
    text = file.read_text(encoding="utf-8").lstrip()
    if not text.startswith("["):
        return read_jsonl(file)
    try:
        records = json.loads(text)
    except ValueError as error:
        raise UserError(f"{file} starts like a JSON array but is not valid JSON ({error})") from None
    for number, record in enumerate(records):
        if not isinstance(record, dict):
            raise UserError(f"{file}: item {number} is a {type(record).__name__}; expected objects")
    return list(records)


def require(record: Mapping[str, Any], key: str, where: str) -> Any:
    """Return ``record[key]``.

    Raises:
        UserError: naming the record and the nearest key it does have.
    """
    if key not in record:
        raise UserError(f'{where} has no "{key}"{nearest(key, record)}; it has {", ".join(sorted(record))}')
    return record[key]


def find_media(names: Sequence[str], folder: str | Path | None, *, where: str) -> tuple[str, ...]:
    """Return the paths of pictures under ``folder``.

    Raises:
        UserError: when one is missing.
    """
    found = []
    for name in names:
        path = Path(folder) / name if folder is not None else Path(name)
        if not path.is_file():
            raise UserError(
                f"{where}: picture {path} does not exist; give --image_dir, the folder of the pictures"
            )
        found.append(str(path))
    return tuple(found)
