"""TRL's own columns: ``prompt`` with ``completion`` or ``chosen``/``rejected``, or a conversation in ``messages``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmalign.data.columns.dialect import Dialect, Example
from mmalign.data.columns.turns import (
    answer_of,
    as_prompt,
    conversation,
    is_conversation,
    shared_prompt,
    split_answer,
)
from mmalign.errors import UserError, nearest

__all__ = ["DIALECT"]

_ANSWERS = ("completion", "response", "answer")


def _convert(record: Mapping[str, Any], where: str) -> Example:
    prompt, completion = record.get("prompt"), next((record[n] for n in _ANSWERS if n in record), None)
    chosen, rejected = record.get("chosen"), record.get("rejected")
    if prompt is None and "messages" in record:
        turns = conversation(record["messages"], "messages", where)
        turns, said = split_answer(turns) if completion is None else (turns, completion)
        prompt, completion = as_prompt(turns), said
        if not turns:
            raise UserError(f"{where}: 'messages' holds an answer but no prompt")
    elif _repeats(prompt, chosen, rejected):
        prompt, chosen, rejected = shared_prompt(chosen, rejected, where)
    if prompt is None:
        columns = sorted(record)
        hint = next((h for c in columns if (h := nearest(c, ["prompt", "messages"]))), "")
        raise UserError(f"{where}: has no column 'prompt' or 'messages', only {columns}{hint}")
    if is_conversation(prompt):
        prompt = as_prompt(conversation(prompt, "prompt", where))
    return Example(
        prompt=prompt,
        completion=answer_of(completion, "completion", where),
        chosen=answer_of(chosen, "chosen", where),
        rejected=answer_of(rejected, "rejected", where),
        label=record.get("label"),
    )


def _repeats(prompt: Any, chosen: Any, rejected: Any) -> bool:
    """Whether the candidates hold the prompt too: there is no prompt, or both are conversations that open with it."""
    if chosen is None or rejected is None:
        return False
    both = is_conversation(chosen) and is_conversation(rejected)
    return prompt is None or (
        both and chosen[0]["role"] != "assistant" and rejected[0]["role"] != "assistant"
    )


DIALECT = Dialect(
    name="trl",
    title="TRL",
    markers=frozenset({"prompt", "completion"}),
    fields={
        "prompt": "prompt",
        "messages": "prompt and completion",
        "completion": "completion",
        "response": "completion",
        "answer": "completion",
        "chosen": "chosen",
        "rejected": "rejected",
        "label": "label",
    },
    convert=_convert,
)
"""TRL's columns, the native ones."""
