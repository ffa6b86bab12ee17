"""The speed switches of an adapter, one off at a time."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from mmalign.types import Speed

__all__ = ["SWITCHES", "switched"]

SWITCHES = tuple(field.name for field in fields(Speed))
"""The names of the switches."""


def switched(adapter: Any, off: str | None) -> None:
    """Every switch on but ``off``; all of them off for ``off="plain"``."""
    adapter.speed = Speed(**{name: off not in ("plain", name) for name in SWITCHES})
