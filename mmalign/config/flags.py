"""``--section.key value`` flags, read with the type of the field they set."""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel

from mmalign.errors import UserError

__all__ = ["default_mapping", "field_type", "parse_flags"]


def parse_flags(tokens: Sequence[str], schema: type[BaseModel]) -> list[tuple[tuple[str, ...], Any]]:
    """Turn ``["--a.b", "1", "--c=2", "--flag"]`` into ``[(("a", "b"), 1), (("c",), 2), ...]``.

    A flag without a value is ``true``.  An unknown key keeps its text, so that validation can name
    it together with every other problem.

    Raises:
        UserError: for a token that is not a flag, or a flag without value that is not a switch.
    """
    found: list[tuple[tuple[str, ...], Any]] = []
    rest = list(tokens)
    while rest:
        token = rest.pop(0)
        if not token.startswith("--") or token == "--":
            raise UserError(f"expected a flag such as --seed 1, got {token!r}")
        name, equals, text = token[2:].partition("=")
        path = tuple(name.replace("-", "_").split("."))
        kind = field_type(schema, path)
        if not equals:
            if rest and not rest[0].startswith("--"):
                text = rest.pop(0)
            elif kind is None or bool in _parts(kind):
                text = "true"
            else:
                raise UserError(f"--{name}: expected a value after it")
        found.append((path, _read(text, kind)))
    return found


def field_type(schema: type[BaseModel], path: Sequence[str]) -> Any:
    """The annotation of the field at ``path``, or ``None`` where there is no such field."""
    current: Any = schema
    for place, name in enumerate(path):
        if isinstance(current, type) and issubclass(current, BaseModel):
            info = current.model_fields.get(name)
            current = info.annotation if info else None
        elif get_origin(current) is dict and place == len(path) - 1:
            return get_args(current)[1]
        else:
            return None
    return current


def default_mapping(schema: type[BaseModel], path: Sequence[str]) -> dict[str, Any]:
    """The default of a field that is a free mapping (``reward.weights``), else an empty one."""
    if not path or get_origin(field_type(schema, path)) is not dict:
        return {}
    owner: Any = schema
    for name in path[:-1]:
        owner = owner.model_fields[name].annotation
    return dict(owner.model_fields[path[-1]].get_default(call_default_factory=True))


def _parts(kind: Any) -> tuple[Any, ...]:
    """The alternatives of an annotation, with ``Annotated`` taken off."""
    while hasattr(kind, "__metadata__"):
        kind = get_args(kind)[0]
    if get_origin(kind) in (Union, types.UnionType):
        return tuple(part for choice in get_args(kind) for part in _parts(choice))
    return (kind,)


def _read(text: str, kind: Any) -> Any:
    parts = _parts(kind)
    if type(None) in parts and text.lower() in ("null", "none", ""):
        return None
    sequences = [part for part in parts if get_origin(part) is tuple]
    if sequences and (str not in parts or "," in text or text.startswith("[")):
        item = get_args(sequences[0])[0]
        body = text.removeprefix("[").removesuffix("]")
        return [_read(piece.strip(), item) for piece in body.split(",") if piece.strip()]
    if set(parts) <= {str, type(None)} or get_origin(parts[0]) is Literal or sequences:
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text
