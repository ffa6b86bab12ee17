"""The configuration keys as help text: key, default and meaning."""

from __future__ import annotations

import textwrap
from typing import Any

from pydantic import BaseModel

from mmalign.config.schema import RunConfig

__all__ = ["describe"]


def describe(schema: type[BaseModel] = RunConfig, prefix: str = "--") -> str:
    """One line per key: ``--section.key DEFAULT  meaning``."""
    lines: list[str] = []
    for name, info in schema.model_fields.items():
        kind = info.annotation
        if prefix + name == "--recipe":
            continue  # a file's own name; load_config refuses it as a flag
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            lines += ["", f"{name}: {info.description or kind.__doc__}", describe(kind, f"{prefix}{name}.")]
            continue
        default = "" if info.is_required() else f" {_shown(info.get_default(call_default_factory=True))}"
        meaning = (info.description or "").replace("``", "")
        text = textwrap.fill(meaning, 100, initial_indent=" " * 8, subsequent_indent=" " * 8)
        lines += [f"  {prefix}{name}{default}", text]
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ",".join(map(str, value)) + "]"
    return str(value)
