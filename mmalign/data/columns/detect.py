"""Which dialect a file speaks, decided once from its columns and said in one sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from mmalign.data.columns import alpaca, sharegpt, swift, trl
from mmalign.data.columns.dialect import Dialect, Example
from mmalign.data.media import MEDIA_COLUMNS
from mmalign.errors import UserError, nearest

__all__ = ["DIALECTS", "ColumnMapping", "detect", "present"]

DIALECTS: dict[str, Dialect] = {
    d.name: d for d in (trl.DIALECT, swift.DIALECT, alpaca.DIALECT, sharegpt.DIALECT)
}
"""The dialects by the name that ``data.columns`` calls them."""

_MARKERS = {column: dialect.name for dialect in DIALECTS.values() for column in dialect.markers}
_LOOK_AT = 64
_ANSWERED = {"completion", "response", "answer", "chosen", "rejected"}


@dataclass(frozen=True, slots=True)
class ColumnMapping:
    """How a file's columns are read: ``reads`` maps a column to what it becomes, ``kept`` go to ``Row.meta``."""

    dialect: Dialect
    reads: Mapping[str, str]
    kept: tuple[str, ...]

    def sentence(self) -> str:
        """The mapping in one line."""
        reads = "; ".join(f"{column} → {field}" for column, field in self.reads.items())
        kept = f"; kept in meta, not shown to the model: {', '.join(self.kept)}" if self.kept else ""
        return f"{self.dialect.title} columns: {reads}{kept}"

    def example(self, record: Mapping[str, Any], where: str) -> Example:
        """One record in TRL's terms.

        Raises:
            UserError: for a record that does not fit, or one whose columns belong to another dialect.
        """
        filled = present(record)
        for column in filled:
            owner = _MARKERS.get(column, self.dialect.name)
            if owner != self.dialect.name and column not in self.kept and column not in self.dialect.fields:
                raise UserError(
                    f"{where}: has the column {column!r} ({DIALECTS[owner].title}), but the file's first rows are in "
                    f"{self.dialect.title} columns; say which is meant with data.columns"
                )
        return self.dialect.convert(filled, where)

    def extra(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The columns of a record that nothing reads."""
        known = {*self.dialect.fields, *MEDIA_COLUMNS, "id", "meta"}
        unread = {name: value for name, value in record.items() if name not in known or name in self.kept}
        return unread


def present(record: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a record that hold something (columnar files fill the others with null)."""
    return {name: value for name, value in record.items() if value is not None}


def detect(records: Iterable[Mapping[str, Any]], where: str, dialect: str = "auto") -> ColumnMapping:
    """The mapping of a file from the columns of its first rows.

    Args:
        records: the file's records; the first 64 are read.
        where: the file, for the complaint.
        dialect: ``auto``, or the name of a dialect that settles it.

    Raises:
        UserError: for an ambiguous file (naming the columns that contradict), or an unknown dialect.
    """
    columns: dict[str, None] = {}
    for record in islice(records, _LOOK_AT):
        columns |= dict.fromkeys(present(record))
    if dialect != "auto" and dialect not in DIALECTS:
        known = ", ".join(["auto", *DIALECTS])
        raise UserError(f"data.columns: no spelling {dialect!r}{nearest(dialect, DIALECTS)}; known: {known}")
    found = DIALECTS[_decide(set(columns), where) if dialect == "auto" else dialect]
    unread = {"messages"} if found.name == "trl" and "prompt" in columns else set()
    fields = {
        name: becomes for name, becomes in found.fields.items() if name in columns and name not in unread
    }
    media = {name: becomes for name, becomes in MEDIA_COLUMNS.items() if name in columns}
    kept = tuple(sorted(set(columns) - set(fields) - set(media) - {"id", "meta"}))
    return ColumnMapping(found, {**fields, **media}, kept)


def _decide(columns: set[str], where: str) -> str:
    marks = {column: name for column, name in _MARKERS.items() if column in columns}
    names = set(marks.values())
    if len(names) > 1:
        shown = " and ".join(f"{column!r} ({DIALECTS[name].title})" for column, name in sorted(marks.items()))
        raise UserError(
            f"{where}: the columns {shown} belong to different spellings; say which is meant with data.columns: "
            f"{', '.join(DIALECTS)}"
        )
    if "messages" in columns and "prompt" in columns and not columns & _ANSWERED:
        raise UserError(
            f"{where}: holds both 'messages' and 'prompt', either of which could be the prompt; remove one"
        )
    if names:
        return names.pop()
    if "messages" in columns and "objects" in columns:
        return "swift"
    if "messages" in columns and columns & {"chosen", "rejected", "kto_tag"}:
        return "sharegpt"
    return "trl"
