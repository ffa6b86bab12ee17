"""Reading rows.  TRL's column names are native; every complaint names the file and the row."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmalign.errors import UserError, nearest
from mmalign.types import Row

__all__ = ["read_records", "read_rows", "row_from_record"]

_MEDIA_COLUMNS = ("images", "image", "audios", "audio", "videos", "observations", "media")
_ANSWER_COLUMNS = ("completion", "response", "answer")
_KNOWN = {
    "id",
    "prompt",
    "messages",
    "chosen",
    "rejected",
    "label",
    "meta",
    *_MEDIA_COLUMNS,
    *_ANSWER_COLUMNS,
}


def read_rows(
    source: str | Path, *, media_root: str | Path | None = None, max_rows: int | None = None
) -> list[Row]:
    """Read rows from a ``.jsonl``, ``.json`` or ``.parquet`` file or a ``datasets`` folder.

    Args:
        source: the file or folder.
        media_root: folder that relative media paths start from (default: the file's own folder).
        max_rows: stop after this many rows.

    Raises:
        UserError: naming the file and the row for a missing file, bad JSON, a missing or unknown
            column, or a media file that does not exist.
    """
    path = Path(source)
    root = Path(media_root) if media_root is not None else (path if path.is_dir() else path.parent)
    rows: list[Row] = []
    for number, record in enumerate(read_records(path), start=1):
        rows.append(
            row_from_record(
                record, where=f"{path}: row {number}", media_root=root, default_id=str(number - 1)
            )
        )
        if max_rows is not None and len(rows) >= max_rows:
            break
    if not rows:
        raise UserError(f"{path}: holds no rows")
    return rows


def read_records(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the records of a file one by one, without interpreting their columns."""
    if not path.exists():
        siblings = [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else []
        raise UserError(f"{path}: no such file{nearest(path.name, siblings)}")
    if path.is_dir():
        yield from _saved_dataset(path)
    elif path.suffix == ".parquet":
        import pyarrow.parquet as parquet

        yield from parquet.read_table(path).to_pylist()
    elif path.suffix == ".json":
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, list):
            raise UserError(f"{path}: expected a JSON array of rows, got {type(content).__name__}")
        yield from content
    elif path.suffix == ".jsonl":
        yield from _json_lines(path)
    else:
        raise UserError(
            f"{path}: expected .jsonl, .json, .parquet or a datasets folder, got {path.suffix or 'no suffix'!r}"
        )


def row_from_record(record: Mapping[str, Any], *, where: str, media_root: Path, default_id: str) -> Row:
    """Turn one record into a :class:`~mmalign.types.Row`; unknown columns go to ``meta``.

    Raises:
        UserError: when there is neither ``prompt`` nor ``messages``, or a media file is missing.
    """
    prompt, completion = record.get("prompt"), _first(record, _ANSWER_COLUMNS)
    if prompt is None and record.get("messages") is not None:
        prompt, completion = _split_messages(record["messages"], where, completion)
    if prompt is None:
        columns = sorted(record)
        hint = next((h for c in columns if (h := nearest(c, ["prompt", "messages"]))), "")
        raise UserError(f"{where}: has no column 'prompt' or 'messages', only {columns}{hint}")
    if isinstance(completion, str) and not completion.strip():
        raise UserError(f"{where}: the answer is empty; leave the column out for a prompt without an answer")
    media = _first(record, _MEDIA_COLUMNS)
    items = media if isinstance(media, list | tuple) else ([] if media is None else [media])
    extra = {name: value for name, value in record.items() if name not in _KNOWN}
    return Row(
        id=str(record.get("id", default_id)),
        prompt=prompt,
        media=tuple(_media_item(item, where, media_root) for item in items),
        completion=_plain_answer(completion),
        chosen=_plain_answer(record.get("chosen")),
        rejected=_plain_answer(record.get("rejected")),
        meta={
            **extra,
            **(record.get("meta") or {}),
            **({"label": record["label"]} if "label" in record else {}),
        },
    )


def _media_item(item: Any, where: str, root: Path) -> Any:
    if isinstance(item, Mapping):
        if item.get("bytes") is not None:
            import io

            from PIL import Image

            return Image.open(io.BytesIO(item["bytes"]))
        item = item.get("path")
    if not isinstance(item, str):
        return item
    path = Path(item) if Path(item).is_absolute() else root / item
    if not path.is_file():
        siblings = [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else []
        raise UserError(f"{where}: media file {path} does not exist{nearest(path.name, siblings)}")
    return str(path)


def _split_messages(messages: Any, where: str, completion: Any) -> tuple[Any, Any]:
    if not isinstance(messages, list) or not all(isinstance(m, Mapping) and "role" in m for m in messages):
        raise UserError(f"{where}: 'messages' must be a list of {{role, content}} records")
    if messages and messages[-1]["role"] == "assistant" and completion is None:
        return messages[:-1], messages[-1]["content"]
    return messages, completion


def _plain_answer(answer: Any) -> Any:
    if (
        isinstance(answer, list)
        and len(answer) == 1
        and isinstance(answer[0], Mapping)
        and "content" in answer[0]
    ):
        return answer[0]["content"]
    return answer


def _first(record: Mapping[str, Any], names: Iterable[str]) -> Any:
    return next((record[name] for name in names if record.get(name) is not None), None)


def _json_lines(path: Path) -> Iterator[Mapping[str, Any]]:
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(
                    f"{path}: row {number} is not valid JSON ({error.msg} at column {error.colno})"
                ) from error
            if not isinstance(record, dict):
                raise UserError(f"{path}: row {number} is a {type(record).__name__}, expected a JSON object")
            yield record


def _saved_dataset(path: Path) -> Iterator[Mapping[str, Any]]:
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except FileNotFoundError as error:
        raise UserError(f"{path}: is a folder but not one written by datasets.save_to_disk") from error
    if isinstance(loaded, datasets.DatasetDict):
        raise UserError(f"{path}: holds several splits {sorted(loaded)}, name one of their folders")
    yield from loaded
