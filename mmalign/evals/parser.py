"""Parsers are named, versioned, pure functions: the part of a benchmark that most often moves its score."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mmalign.errors import UserError, nearest

__all__ = ["Parsed", "Parser", "pick_parser"]


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a parser read: ``value`` is None and ``ok`` false when the answer could not be read."""

    value: Any
    ok: bool


@dataclass(frozen=True, slots=True)
class Parser:
    """A named rule from an answer to a value.

    Args:
        name: what the rule is called, e.g. ``yesno``.
        version: a whole number, raised whenever any answer would be read differently.
        parse: the pure function.
    """

    name: str
    version: int
    parse: Callable[[str], Parsed]

    @property
    def label(self) -> str:
        """The spelling stored in results: ``yesno.v1``."""
        return f"{self.name}.v{self.version}"

    def __call__(self, answer: str) -> Parsed:
        """Read one answer."""
        return self.parse(answer)


def pick_parser(choice: str | Parser, known: Mapping[str, Parser]) -> Parser:
    """Return the parser named ``choice`` (with or without its version), or ``choice`` itself.

    Raises:
        UserError: when there is none of that name; the nearest is given.
    """
    if isinstance(choice, Parser):
        return choice
    for name, parser in known.items():
        if choice in (name, parser.label):
            return parser
    labels = sorted(parser.label for parser in known.values())
    raise UserError(f'no parser "{choice}"{nearest(choice, known)}; expected one of {", ".join(labels)}')
