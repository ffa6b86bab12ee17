"""Finding a task by name and building it with the user's options."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from mmalign.errors import UserError, nearest
from mmalign.protocols import Task

__all__ = ["load_task", "option_names"]


def load_task(name: str, options: Mapping[str, Any] | None = None) -> Task:
    """Build the registered task ``name``; an entry is a class or function with named options.

    Args:
        name: a name of ``mmalign list``, e.g. ``scenes-captions``.
        options: its named options, e.g. ``{"split": "test", "n": 300}``.

    Raises:
        UserError: for an unknown task or option, each with the nearest known name.
    """
    from mmalign import registry

    factory = registry.load("tasks", name)
    options = dict(options or {})
    allowed = option_names(factory)
    for key in options:
        if key not in allowed:
            raise UserError(
                f'task {name} has no option "{key}"{nearest(key, allowed)}; it takes {", ".join(allowed)}'
            )
    built = factory(**options) if callable(factory) else factory
    if not isinstance(built, Task):
        raise UserError(f"task {name} lacks rows, score or metrics, so it is no mmalign Task")
    return built


def option_names(factory: Any) -> list[str]:
    """Return the names of a task's options in the order of its signature."""
    return list(inspect.signature(factory).parameters) if callable(factory) else []
