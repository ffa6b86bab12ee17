"""Validation errors as sentences: file or flag, key, what was expected, nearest valid key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from mmalign.errors import nearest

__all__ = ["explain"]


def explain(
    error: ValidationError, schema: type[BaseModel], file: Path, origin: Mapping[tuple[str, ...], str]
) -> str:
    """One message that names every problem.

    Args:
        error: what pydantic found.
        schema: the configuration's class, for the valid keys.
        file: the YAML file the values came from.
        origin: the flag that set a key, for keys that a flag set.
    """
    problems: dict[str, str] = {}
    for item in error.errors(include_url=False):
        path = tuple(str(part) for part in item["loc"])
        key = _known_prefix(schema, path) if item["type"] != "extra_forbidden" else path
        named, colon, _ = str(item["msg"]).removeprefix("Value error, ").partition(": ")
        owner = _section(schema, key)
        if colon and owner and named in owner.model_fields:
            key = path = (*key, named)
            item["msg"] = str(item["msg"]).replace(f"{named}: ", "", 1)
        where = origin.get(path) or origin.get(key) or f"{file.name}: {'.'.join(key)}".removesuffix(": ")
        problems.setdefault(where, _sentence(item, schema, path))
    lines = [f"{where}: {what}" for where, what in problems.items()]
    if len(lines) == 1:
        return lines[0]
    return f"{len(lines)} problems in the configuration:\n  " + "\n  ".join(lines)


def _sentence(item: Any, schema: type[BaseModel], path: Sequence[str]) -> str:
    if item["type"] == "extra_forbidden":
        owner = _section(schema, path[:-1])
        keys = list(owner.model_fields) if owner else []
        elsewhere = [f"{name}.{path[-1]}" for name in schema.model_fields if path[-1] in _keys(schema, name)]
        hint = nearest(path[-1], keys)
        if not hint and elsewhere and len(path) == 1:
            hint = f" (did you mean {' or '.join(elsewhere)}?)"
        return f"unknown key{hint}" if hint else f"unknown key; known: {', '.join(keys)}"
    if item["type"] == "missing":
        return "is missing"
    if item["type"] == "model_type":
        return f"is a section, expected keys and values, got {_shown(item.get('input'))}"
    text = str(item["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    got = item.get("input")
    shown = "" if isinstance(got, dict | BaseModel) else f", got {_shown(got)}"
    return f"{text}{shown}"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _keys(schema: type[BaseModel], name: str) -> set[str]:
    owner = _section(schema, (name,))
    return set(owner.model_fields) if owner else set()


def _section(schema: type[BaseModel], path: Sequence[str]) -> type[BaseModel] | None:
    current: type[BaseModel] | None = schema
    for name in path:
        info = current.model_fields.get(name) if current else None
        kind = info.annotation if info else None
        current = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
    return current


def _known_prefix(schema: type[BaseModel], path: Sequence[str]) -> tuple[str, ...]:
    """Pydantic's path without the names of union members (``weights.relation`` stays whole)."""
    kept: list[str] = []
    current: Any = schema
    for name in path:
        if isinstance(current, type) and issubclass(current, BaseModel):
            info = current.model_fields.get(name)
            if info is None:
                break
            current = info.annotation
            kept.append(name)
        elif getattr(current, "__origin__", None) is dict:
            current = get_args(current)[1]
            kept.append(name)
        else:
            break
    return tuple(kept)
