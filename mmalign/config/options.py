"""Settings that belong to a plug-in: a mapping in the configuration, checked against the plug-in's own section."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pydantic import ValidationError

from mmalign.config.fields import Bool, Float, Int, Section
from mmalign.errors import UserError, nearest

__all__ = ["Option", "read_options"]

Option = str | Int | Float | Bool | None
"""What a mapping of options may hold."""

_Section = TypeVar("_Section", bound=Section)


def read_options(
    section: type[_Section], options: Mapping[str, object], where: str = "model.options"
) -> _Section:
    """``section`` filled from a mapping; keys that are absent keep their defaults.

    Raises:
        UserError: for an unknown key (naming the nearest) or a value that does not fit; ``where`` is named.
    """
    known = list(section.model_fields)
    for name in options:
        if name not in known:
            raise UserError(f"{where}: unknown key {name!r}{nearest(name, known)}; known: {', '.join(known)}")
    try:
        return section(**dict(options))
    except ValidationError as error:
        item = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in item["loc"]) or next(iter(options), "")
        what = str(item["msg"]).removeprefix("Value error, ")
        raise UserError(f"{where}: {key}: {what}, got {item.get('input')!r}") from None
