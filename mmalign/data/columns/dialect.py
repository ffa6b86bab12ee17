"""What a dialect is: the columns that give it away, what each becomes, and the function that converts a record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Dialect", "Example"]


@dataclass(frozen=True, slots=True)
class Example:
    """A record in TRL's terms, its media columns aside.

    ``tagged``: the text shows media as ``<image>``, ``<audio>`` and ``<video>``.  ``replaces``: a candidate's own
    media stand in place of the prompt's instead of beside them.
    """

    prompt: Any
    completion: Any = None
    chosen: Any = None
    rejected: Any = None
    label: Any = None
    tagged: bool = False
    replaces: bool = False


@dataclass(frozen=True, slots=True)
class Dialect:
    """One framework's columns.

    Args:
        name: what ``data.columns`` calls it.
        title: the framework, for messages.
        markers: columns that only this dialect has; finding one decides.
        fields: each column it reads, and what that becomes.
        convert: ``(record, where) -> Example``; ``record`` has no empty columns.
    """

    name: str
    title: str
    markers: frozenset[str]
    fields: Mapping[str, str]
    convert: Callable[[Mapping[str, Any], str], Example]
