"""The speed switches of an adapter, one off at a time."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from mmalign.types import Speed

__all__ = ["SAMPLING", "SWITCHES", "switched"]

SAMPLING = ("merge_lora",)
"""Switches that act while sampling."""

SWITCHES = tuple(field.name for field in fields(Speed) if field.name not in ("pack", *SAMPLING))
"""The others, compared one by one; ``pack`` acts only where no prompt is shared, which no case here has."""


def switched(adapter: Any, off: str | None) -> None:
    """Every switch on but ``off``; all of them off for ``off="plain"``, and ``pack`` with ``share_prefix``."""
    chosen = {name: off not in ("plain", name) for name in (*SWITCHES, *SAMPLING)}
    adapter.speed = Speed(**chosen, pack=chosen["share_prefix"])
