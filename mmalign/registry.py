"""Names of plug-ins without importing them, and one plug-in at a time by name.

Built-ins and third parties register the same way: an entry point in the group ``mmalign.<group>``.
A plug-in that fails to import is reported with its error and stops nobody; two packages that claim
one name are an error that names both.
"""

from __future__ import annotations

import importlib.metadata
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from mmalign.errors import UserError, nearest

__all__ = ["GROUPS", "Entry", "clear", "entries", "load", "names", "status"]

GROUPS = (
    "modalities",
    "worlds",
    "judges",
    "extractors",
    "rewards",
    "objectives",
    "tuners",
    "backbones",
    "transfer",
    "tasks",
    "claims",
    "benches",
    "trackers",
)
"""What can be plugged in."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One registered name: where its object lives and which distribution brought it."""

    name: str
    value: str
    package: str


@cache
def _table() -> Mapping[str, Mapping[str, tuple[Entry, ...]]]:
    table: dict[str, dict[str, list[Entry]]] = defaultdict(lambda: defaultdict(list))
    for group in GROUPS:
        for point in importlib.metadata.entry_points(group=f"mmalign.{group}"):
            entry = Entry(point.name, point.value, point.dist.name if point.dist else "an unknown package")
            if entry not in table[group][point.name]:
                table[group][point.name].append(entry)
    return {group: {name: tuple(found) for name, found in table[group].items()} for group in GROUPS}


def clear() -> None:
    """Forget what was read, for a process in which a package was just installed."""
    _table.cache_clear()


def names(group: str) -> list[str]:
    """Registered names of a group, sorted; nothing is imported.

    Raises:
        UserError: for an unknown group.
    """
    return sorted(entries(group))


def entries(group: str) -> Mapping[str, tuple[Entry, ...]]:
    """``name -> who registered it``; more than one entry is a clash.

    Raises:
        UserError: for an unknown group.
    """
    if group not in GROUPS:
        raise UserError(
            f"{group}: no such kind of plug-in{nearest(group, GROUPS)}; there are {', '.join(GROUPS)}"
        )
    return _table()[group]


def load(group: str, name: str, *, key: str = "") -> Any:
    """Import and return the object registered as ``name``.

    Args:
        group: the kind of plug-in.
        name: its name.
        key: the key of the configuration that asked for it, for what is said of an unknown name.

    Raises:
        UserError: for an unknown name, a name that two packages claim, or a plug-in that fails to load.
    """
    known = entries(group)
    if name not in known:
        options = ", ".join(sorted(known)) or "none installed"
        asked = f"{key}: {name}" if key else name
        raise UserError(f"{asked}: no such name under {group}{nearest(name, known)}; known: {options}")
    if len(known[name]) > 1:
        packages = " and ".join(sorted(f"{entry.package} ({entry.value})" for entry in known[name]))
        raise UserError(f"{name}: claimed under {group} by {packages}; uninstall one of them")
    entry = known[name][0]
    try:
        return _resolve(group, entry)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{name}: the plug-in of {entry.package} under {group} ({entry.value}) failed to load: "
            f"{type(error).__name__}: {error}"
        ) from error


def _resolve(group: str, entry: Entry) -> Any:
    return importlib.metadata.EntryPoint(entry.name, entry.value, f"mmalign.{group}").load()


def status(group: str) -> list[tuple[str, str, str | None]]:
    """``(name, package, error or None)`` of every plug-in of a group, each loaded on its own."""
    found = []
    for name, claimed in sorted(entries(group).items()):
        problem = None
        try:
            load(group, name)
        except UserError as error:
            problem = str(error)
        found.append((name, ", ".join(sorted({entry.package for entry in claimed})), problem))
    return found
