"""Rows of a file, read when they are asked for.  Every complaint names the file and the row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from mmalign.data.columns.detect import ColumnMapping, detect
from mmalign.data.media import row_media
from mmalign.data.records import Records, open_records
from mmalign.errors import UserError
from mmalign.types import Row

__all__ = ["Rows", "open_rows", "read_records", "read_rows", "row_from_record"]


class Rows(Sequence[Row]):
    """The rows of a file as a sequence: ``rows[k]`` reads row ``k`` and keeps nothing; a slice is another view.

    Args:
        records: the open file.
        mapping: how its columns are read.
        path: the file, for complaints.
        root: where relative media paths start.
        places: which rows, in which order.
    """

    def __init__(
        self, records: Records, mapping: ColumnMapping, path: Path, root: Path, places: range
    ) -> None:
        self.mapping = mapping
        self.path = path
        self._records, self._root, self._places = records, root, places

    @property
    def fingerprint(self) -> str:
        """A hash of the file's content."""
        return self._records.fingerprint

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, place: int) -> Row: ...

    @overload
    def __getitem__(self, place: slice) -> Rows: ...

    def __getitem__(self, place: int | slice) -> Row | Rows:
        if isinstance(place, slice):
            return Rows(self._records, self.mapping, self.path, self._root, self._places[place])
        at = self._places[place]
        return row_from_record(
            self._records[at],
            where=f"{self.path}: row {self._records.number(at)}",
            media_root=self._root,
            default_id=str(at),
            mapping=self.mapping,
        )

    def number(self, place: int) -> int:
        """What complaints call row ``place``: its line or its place in the file, from 1."""
        return self._records.number(self._places[place])

    def __iter__(self) -> Iterator[Row]:
        return (self[place] for place in range(len(self)))


def open_rows(
    source: str | Path,
    *,
    media_root: str | Path | None = None,
    max_rows: int | None = None,
    columns: str = "auto",
) -> Rows:
    """Open a ``.jsonl``, ``.json`` or ``.parquet`` file or a ``datasets`` folder without reading its rows.

    Args:
        source: the file or folder.
        media_root: folder that relative media paths start from (default: the file's own folder).
        max_rows: leave out what follows after this many rows.
        columns: the spelling of the columns, ``auto`` to find out.

    Raises:
        UserError: for a missing, unreadable or empty file, or columns that contradict each other.
    """
    path = Path(source)
    root = Path(media_root) if media_root is not None else (path if path.is_dir() else path.parent)
    records = open_records(path)
    if not len(records):
        raise UserError(f"{path}: holds no rows")
    mapping = detect(_readable(records), str(path), columns)
    count = len(records) if max_rows is None else min(max_rows, len(records))
    return Rows(records, mapping, path, root, range(count))


def read_rows(
    source: str | Path,
    *,
    media_root: str | Path | None = None,
    max_rows: int | None = None,
    columns: str = "auto",
) -> list[Row]:
    """All rows of a file in memory; arguments as :func:`open_rows`.

    Raises:
        UserError: naming the file and the row for a missing file, bad JSON, a missing or unknown
            column, or a media file that does not exist.
    """
    return list(open_rows(source, media_root=media_root, max_rows=max_rows, columns=columns))


def read_records(path: Path) -> Iterable[Mapping[str, Any]]:
    """The records of a file one by one, without interpreting their columns."""
    return open_records(path)


def row_from_record(
    record: Mapping[str, Any],
    *,
    where: str,
    media_root: Path,
    default_id: str,
    mapping: ColumnMapping | None = None,
) -> Row:
    """Turn one record into a :class:`~mmalign.types.Row`; unknown columns go to ``meta``.

    Args:
        record: column -> value.
        where: file and row, for complaints.
        media_root: where relative media paths start.
        default_id: the id of a record without one.
        mapping: how columns are read; found from this record alone when ``None``.

    Raises:
        UserError: when there is no prompt, an answer is empty, or a media file is missing.
    """
    mapping = mapping or detect([record], where)
    example = mapping.example(record, where)
    if isinstance(example.completion, str) and not example.completion.strip():
        raise UserError(f"{where}: the answer is empty; leave the column out for a prompt without an answer")
    prompt, media, chosen_media, rejected_media = row_media(record, example, where, media_root)
    label = {"label": example.label} if example.label is not None else {}
    return Row(
        id=str(default_id if record.get("id") is None else record["id"]),
        prompt=prompt,
        media=media,
        completion=example.completion,
        chosen=example.chosen,
        rejected=example.rejected,
        chosen_media=chosen_media,
        rejected_media=rejected_media,
        meta={**mapping.extra(record), **(record.get("meta") or {}), **label},
    )


def _readable(records: Records) -> Iterator[Mapping[str, Any]]:
    """The records that can be read; one that cannot complains when it is asked for as a row."""
    for place in range(len(records)):
        try:
            yield records[place]
        except UserError:
            continue
