"""Earlier turns in a ``history`` column of ``[question, answer]`` pairs, as ms-swift and alpaca write them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmalign.errors import UserError

__all__ = ["earlier_turns"]


def earlier_turns(history: Any, where: str) -> list[Mapping[str, Any]]:
    """``[[question, answer], ...]`` as user and assistant messages; nothing for ``None``.

    Raises:
        UserError: when an entry is not such a pair.
    """
    turns: list[Mapping[str, Any]] = []
    for entry in history or []:
        if not isinstance(entry, list | tuple) or len(entry) != 2:
            raise UserError(f"{where}: 'history' must be a list of [question, answer] pairs")
        turns.append({"role": "user", "content": str(entry[0])})
        turns.append({"role": "assistant", "content": str(entry[1])})
    return turns
