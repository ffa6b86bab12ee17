"""LLaMA-Factory's sharegpt columns: ``conversations`` of ``{from, value}``, with ``chosen``/``rejected`` or not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmalign.data.columns.dialect import Dialect, Example
from mmalign.data.columns.turns import as_prompt, split_answer
from mmalign.errors import UserError, nearest

__all__ = ["DIALECT"]

_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
    "system": "system",
}


def _convert(record: Mapping[str, Any], where: str) -> Example:
    column = next((name for name in ("conversations", "messages") if name in record), None)
    if column is None:
        raise UserError(f"{where}: has no column 'conversations' or 'messages', only {sorted(record)}")
    said = record[column]
    if not isinstance(said, list | tuple) or not said:
        raise UserError(f"{where}: {column!r} must be a list of {{from, value}} records")
    turns = [_turn(message, column, where) for message in said]
    if record.get("system"):
        turns = [{"role": "system", "content": str(record["system"])}, *turns]
    paired = "chosen" in record or "rejected" in record
    completion = None
    if not paired:
        turns, completion = split_answer(turns)
    elif turns[-1]["role"] == "assistant":
        raise UserError(
            f"{where}: {column!r} must end before the answer where 'chosen' and 'rejected' give it"
        )
    if not turns:
        raise UserError(f"{where}: {column!r} holds an answer but no prompt")
    return Example(
        prompt=as_prompt(turns),
        completion=completion,
        chosen=_answer(record.get("chosen"), "chosen", where),
        rejected=_answer(record.get("rejected"), "rejected", where),
        label=record.get("kto_tag", record.get("label")),
        tagged=True,
    )


def _turn(message: Any, column: str, where: str) -> Mapping[str, Any]:
    if not isinstance(message, Mapping):
        raise UserError(f"{where}: {column!r} must hold {{from, value}} records")
    role, text = message.get("from", message.get("role")), message.get("value", message.get("content"))
    if role not in _ROLES or text is None:
        known = ", ".join(_ROLES)
        raise UserError(
            f"{where}: {column!r} has a turn from {role!r}{nearest(str(role), _ROLES)}; known: {known}"
        )
    return {"role": _ROLES[role], "content": text}


def _answer(value: Any, column: str, where: str) -> Any:
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if not isinstance(value, Mapping):
        return value
    turn = _turn(value, column, where)
    if turn["role"] != "assistant":
        raise UserError(f"{where}: {column!r} must be said by the assistant, not by {turn['role']!r}")
    return turn["content"]


DIALECT = Dialect(
    name="sharegpt",
    title="LLaMA-Factory (sharegpt)",
    markers=frozenset({"conversations"}),
    fields={
        "conversations": "prompt and completion",
        "messages": "prompt and completion",
        "system": "prompt (system turn)",
        "chosen": "chosen",
        "rejected": "rejected",
        "kto_tag": "label",
        "label": "label",
    },
    convert=_convert,
)
"""LLaMA-Factory's sharegpt columns."""
