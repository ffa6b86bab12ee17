"""Files as sequences of records: any record by its place, without reading the file into memory.

A JSON-lines file gets an index of byte offsets (8 bytes a row), a Parquet file is read by row group, a saved
``datasets`` folder is memory-mapped.  Because record ``k`` is found by its place alone, the engine's order of rows
and its exact resume work on a file of any size.
"""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from mmalign.errors import UserError, nearest

__all__ = ["Records", "open_records"]

_GROUPS_KEPT = 4


class Records(Protocol):
    """A file of records.  ``fingerprint`` is a hash that changes when the content does."""

    fingerprint: str

    def __len__(self) -> int: ...

    def __getitem__(self, place: int) -> Mapping[str, Any]: ...

    def __iter__(self) -> Iterator[Mapping[str, Any]]: ...

    def number(self, place: int) -> int:
        """What a complaint calls record ``place``: its line in a JSON-lines file, else ``place + 1``."""
        ...


def open_records(path: Path) -> Records:
    """Open a ``.jsonl``, ``.json`` or ``.parquet`` file or a folder written by ``datasets.save_to_disk``.

    A ``.json`` array is the one format that is read into memory whole.

    Raises:
        UserError: for a missing file, another kind of file, or one that is not what its name says.
    """
    if not path.exists():
        siblings = [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else []
        raise UserError(f"{path}: no such file{nearest(path.name, siblings)}")
    if path.is_dir():
        return _SavedDataset(path)
    kinds: dict[str, Any] = {".jsonl": _JsonLines, ".json": _JsonArray, ".parquet": _Parquet}
    if path.suffix not in kinds:
        suffix = path.suffix or "no suffix"
        raise UserError(f"{path}: expected .jsonl, .json, .parquet or a datasets folder, got {suffix!r}")
    opened: Records = kinds[path.suffix](path)
    return opened


class _JsonLines:
    """Byte offsets of every line that is not blank; a record is read with one ``pread``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._starts, self._sizes, self._lines = array("Q"), array("L"), array("Q")
        digest, at = hashlib.sha256(), 0
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                digest.update(line)
                if line.strip():
                    self._starts.append(at)
                    self._sizes.append(len(line))
                    self._lines.append(number)
                at += len(line)
        self.fingerprint = digest.hexdigest()
        self._file = path.open("rb")

    def __len__(self) -> int:
        return len(self._starts)

    def number(self, place: int) -> int:
        return self._lines[place]

    def __getitem__(self, place: int) -> Mapping[str, Any]:
        line = os.pread(self._file.fileno(), self._sizes[place], self._starts[place])
        where = f"{self.path}: row {self._lines[place]}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{where} is not valid JSON ({error.msg} at column {error.colno})") from None
        except UnicodeDecodeError:
            raise UserError(f"{where} is not UTF-8 text") from None
        return _record(record, where)

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return (self[place] for place in range(len(self)))


class _JsonArray:
    def __init__(self, path: Path) -> None:
        self.path = path
        data = path.read_bytes()
        try:
            content = json.loads(data)
        except ValueError as error:
            raise UserError(f"{path}: is not valid JSON ({error})") from None
        if not isinstance(content, list):
            raise UserError(f"{path}: expected a JSON array of rows, got {type(content).__name__}")
        self._content = content
        self.fingerprint = hashlib.sha256(data).hexdigest()

    def __len__(self) -> int:
        return len(self._content)

    def number(self, place: int) -> int:
        return place + 1

    def __getitem__(self, place: int) -> Mapping[str, Any]:
        return _record(self._content[place], f"{self.path}: row {place + 1}")

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return (self[place] for place in range(len(self)))


class _Parquet:
    """Row groups, the last few of them kept; the fingerprint is that of the size and the footer."""

    def __init__(self, path: Path) -> None:
        import pyarrow
        import pyarrow.parquet as parquet

        self.path = path
        try:
            self._file = parquet.ParquetFile(path)
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise UserError(f"{path}: is not a Parquet file ({error})") from None
        meta = self._file.metadata
        self._first = [0]
        for group in range(meta.num_row_groups):
            self._first.append(self._first[-1] + meta.row_group(group).num_rows)
        footer = json.dumps(meta.to_dict(), sort_keys=True, default=str)
        self.fingerprint = hashlib.sha256(f"{path.stat().st_size} {footer}".encode()).hexdigest()
        self._kept: OrderedDict[int, Any] = OrderedDict()

    def __len__(self) -> int:
        return self._first[-1]

    def number(self, place: int) -> int:
        return place + 1

    def __getitem__(self, place: int) -> Mapping[str, Any]:
        from bisect import bisect_right

        group = bisect_right(self._first, place) - 1
        found: dict[str, Any] = self._group(group).slice(place - self._first[group], 1).to_pylist()[0]
        return found

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return (self[place] for place in range(len(self)))

    def _group(self, group: int) -> Any:
        if group not in self._kept:
            self._kept[group] = self._file.read_row_group(group)
            if len(self._kept) > _GROUPS_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(group)
        return self._kept[group]


class _SavedDataset:
    def __init__(self, path: Path) -> None:
        import datasets

        try:
            loaded = datasets.load_from_disk(str(path))
        except FileNotFoundError:
            raise UserError(f"{path}: is a folder but not one written by datasets.save_to_disk") from None
        if isinstance(loaded, datasets.DatasetDict):
            raise UserError(f"{path}: holds several splits {sorted(loaded)}, name one of their folders")
        self._loaded = loaded
        files = sorted((f.name, f.stat().st_size) for f in path.glob("*.arrow"))
        self.fingerprint = hashlib.sha256(f"{loaded._fingerprint} {files}".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._loaded)

    def number(self, place: int) -> int:
        return place + 1

    def __getitem__(self, place: int) -> Mapping[str, Any]:
        found: dict[str, Any] = self._loaded[place]
        return found

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return iter(self._loaded)


def _record(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where} is a {type(value).__name__}, expected a JSON object")
    return value
