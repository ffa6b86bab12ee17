"""Errors a user can cause, each one sentence that names what is wrong and how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["UserError", "nearest"]


class UserError(Exception):
    """Bad input.  The message is one sentence: file, key or row, what was expected, the nearest name."""


def nearest(name: str, options: Iterable[str]) -> str:
    """Return ``' (did you mean "x"?)'`` for the option closest to ``name``, or an empty string."""
    match = difflib.get_close_matches(name, list(options), n=1, cutoff=0.5)
    return f' (did you mean "{match[0]}"?)' if match else ""
