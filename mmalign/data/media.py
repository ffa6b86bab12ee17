"""Media of a row: which columns hold them, on which side they stand, and in which order the prompt shows them."""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmalign.data.columns.dialect import Example
from mmalign.errors import UserError, nearest

__all__ = ["MEDIA_COLUMNS", "row_media"]

_KINDS = {
    "image": ("images", "image"),
    "audio": ("audios", "audio"),
    "video": ("videos", "video"),
    "observation": ("observations", "observation"),
    "medium": ("media",),
}
_SIDES = {"": "media of the prompt", "chosen_": "media of chosen", "rejected_": "media of rejected"}

MEDIA_COLUMNS: dict[str, str] = {
    side + name: meaning for side, meaning in _SIDES.items() for names in _KINDS.values() for name in names
}
"""Every media column and what it becomes."""

_TAG = re.compile("<(image|audio|video)>")
_Found = dict[str, list[Any]]


def row_media(
    record: Mapping[str, Any], example: Example, where: str, root: Path
) -> tuple[Any, tuple[Any, ...], tuple[Any, ...], tuple[Any, ...]]:
    """Prompt, media, chosen media and rejected media of a record.

    Media inside the prompt's parts, media columns and ``<image>`` tags become typed parts with the media in the
    order in which the prompt shows them.  Paths are made absolute or rooted at ``root`` and must exist.

    Raises:
        UserError: for a medium that is missing or unreadable, a web address, two columns of one meaning, or
            a different number of tags than media.
    """
    sides = {side: _collect(record, side, where, root) for side in _SIDES}
    shared, chosen, rejected = sides.values()
    if example.replaces and (_flat(chosen) or _flat(rejected)):
        chosen, rejected, shared = chosen or shared, rejected or shared, {}
        prompt, _ = _arranged(example, chosen, where, root)
        _arranged(example, rejected, where, root)
        return prompt, (), _flat(chosen), _flat(rejected)
    prompt, media = _arranged(example, shared, where, root)
    return prompt, media, _flat(chosen), _flat(rejected)


def _collect(record: Mapping[str, Any], side: str, where: str, root: Path) -> _Found:
    found: _Found = {}
    for kind, names in _KINDS.items():
        used = [side + name for name in names if record.get(side + name) is not None]
        if len(used) > 1:
            raise UserError(
                f"{where}: holds both {used[0]!r} and {used[1]!r}, which mean the same; remove one"
            )
        if used:
            value = record[used[0]]
            items = value if isinstance(value, list | tuple) else [value]
            if items:
                found[kind] = [_item(item, kind, where, root) for item in items]
    return found


def _flat(found: _Found) -> tuple[Any, ...]:
    return tuple(item for items in found.values() for item in items)


def _arranged(example: Example, found: _Found, where: str, root: Path) -> tuple[Any, tuple[Any, ...]]:
    """The prompt with typed parts and the media in their order; columns that no part shows follow in their own."""
    left = {kind: list(items) for kind, items in found.items()}
    prompt = _tags_to_parts(example, found, where)
    if isinstance(prompt, str) or not isinstance(prompt, Sequence):
        return prompt, _flat(left)
    shown: list[Any] = []
    turns = [_turn(turn, left, shown, where, root) for turn in prompt]
    return turns, (*shown, *_flat(left))


def _turn(turn: Any, left: _Found, shown: list[Any], where: str, root: Path) -> Any:
    content = turn.get("content") if isinstance(turn, Mapping) else None
    if not isinstance(content, list | tuple):
        return turn
    return {**turn, "content": [_part(part, left, shown, where, root) for part in content]}


def _part(part: Any, left: _Found, shown: list[Any], where: str, root: Path) -> Any:
    """A part as it is, its medium moved to ``shown``: its own, else the next of the column of its kind."""
    kind = str(part.get("type", "")).removesuffix("_url") if isinstance(part, Mapping) else ""
    if kind not in ("image", "audio", "video"):
        return part
    own = next((part[name] for name in (kind, f"{kind}_url", "path", "url", "data") if part.get(name)), None)
    if isinstance(own, Mapping) and "url" in own:
        own = own["url"]
    pool = left.get(kind) or left.get("medium") or []
    if own is not None:
        shown.append(_item(own, kind, where, root))
    elif pool:
        shown.append(pool.pop(0))
    else:
        raise UserError(f"{where}: the prompt shows more {kind} parts than the row has")
    return {"type": kind}


def _tags_to_parts(example: Example, found: _Found, where: str) -> Any:
    """``<image>`` in the text becomes a part where the tags are as many as the media of their kind."""
    prompt = example.prompt
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if not isinstance(turns, Sequence) or not all(isinstance(turn, Mapping) for turn in turns):
        return prompt
    texts = [turn["content"] for turn in turns if isinstance(turn.get("content"), str)]
    tags = [match for text in texts for match in _TAG.findall(text)]
    matching = {kind for kind in set(tags) if tags.count(kind) == len(found.get(kind, ()))}
    wrong = next((kind for kind in set(tags) - matching if example.tagged), None)
    if wrong:
        raise UserError(
            f"{where}: the text shows {tags.count(wrong)} <{wrong}> but the row has {len(found.get(wrong, ()))}"
        )
    if not matching:
        return prompt
    return [
        {**turn, "content": _split(turn["content"], matching)}
        if isinstance(turn.get("content"), str)
        else turn
        for turn in turns
    ]


def _split(text: str, kinds: set[str]) -> Any:
    parts: list[dict[str, Any]] = []
    for place, piece in enumerate(re.split("<(" + "|".join(sorted(kinds)) + ")>", text)):
        if place % 2:
            parts.append({"type": piece})
        elif piece:
            parts.append({"type": "text", "text": piece})
    return parts if any(part["type"] != "text" for part in parts) else text


def _item(item: Any, kind: str, where: str, root: Path) -> Any:
    if isinstance(item, Mapping):
        if item.get("bytes") is not None:
            return _decoded(item["bytes"], kind, where)
        if item.get("path") is None:
            return item
        item = item["path"]
    if not isinstance(item, str):
        return item
    if item.startswith(("http://", "https://")):
        raise UserError(f"{where}: {item} is a web address; download it and name the file")
    if item.startswith("data:"):
        try:
            return _decoded(base64.b64decode(item.partition(",")[2], validate=True), kind, where)
        except binascii.Error:
            raise UserError(f"{where}: holds a data: address that is not base64") from None
    path = Path(item.removeprefix("file://"))
    path = path if path.is_absolute() else root / path
    if not path.is_file():
        siblings = [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else []
        raise UserError(f"{where}: media file {path} does not exist{nearest(path.name, siblings)}")
    return str(path)


def _decoded(data: bytes, kind: str, where: str) -> Any:
    if kind not in ("image", "medium", "observation"):
        return data
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        raise UserError(f"{where}: holds bytes that are no readable image") from None
