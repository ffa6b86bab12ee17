"""JSON lines that survive a kill: appended and flushed one record at a time, repaired on the next start."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mmalign.errors import UserError

__all__ = ["JsonlWriter", "clean", "iter_jsonl", "read_json", "read_jsonl", "repair", "write_json"]


def clean(value: Any) -> Any:
    """Return ``value`` as plain JSON: NaN and infinities become null, tuples lists, mappings dicts."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, Mapping):
        return {str(key): clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((clean(item) for item in value), key=str)
    if hasattr(value, "item") and getattr(value, "size", None) in (1, None):
        return clean(value.item())
    if hasattr(value, "tolist"):
        return clean(value.tolist())
    return str(value)


def dumps(value: Any, *, indent: int | None = None) -> str:
    """Return strict JSON text (no NaN, UTF-8 kept readable)."""
    return json.dumps(clean(value), ensure_ascii=False, allow_nan=False, indent=indent)


def iter_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a JSON-lines file; a torn last line (killed while writing) is left out.

    Raises:
        UserError: when any other line is not a JSON object.
    """
    data = Path(path).read_bytes()
    lines = data.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                return
            raise UserError(
                f"{path}:{number} is not valid JSON ({error}); expected one object a line"
            ) from None
        if not isinstance(record, dict):
            raise UserError(
                f"{path}:{number} holds a {type(record).__name__}; expected one JSON object a line"
            )
        yield record


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Return the records of a JSON-lines file as a list (see :func:`iter_jsonl`)."""
    return list(iter_jsonl(path))


def repair(path: Path) -> bool:
    """Cut a torn last line off a JSON-lines file, in place; return whether anything was changed."""
    path = Path(path)
    if not path.exists() or path.stat().st_size == 0:
        return False
    with path.open("rb+") as file:
        data = file.read()
        if data.endswith(b"\n"):
            return False
        cut = data.rfind(b"\n") + 1
        try:
            json.loads(data[cut:])
        except ValueError:
            file.truncate(cut)
        else:
            file.write(b"\n")
        file.flush()
        os.fsync(file.fileno())
    return True


class JsonlWriter:
    """Appends records to a JSON-lines file; each is flushed before :meth:`write` returns."""

    def __init__(self, path: Path) -> None:
        """Open ``path`` for appending, after repairing a torn last line."""
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        repair(self.path)
        self._file = self.path.open("ab")

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record as a single line and flush it to the operating system."""
        self._file.write((dumps(record) + "\n").encode())
        self._file.flush()

    def sync(self) -> None:
        """Force what was written onto the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Sync and close."""
        if not self._file.closed:
            self.sync()
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        UserError: when the file is not valid JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error})") from None


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON to a temporary file and rename it into place."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(dumps(value, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
