"""ms-swift's columns: ``messages`` with ``rejected_response`` or ``rejected_messages``, or ``query``/``response``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmalign.data.columns.dialect import Dialect, Example
from mmalign.data.columns.history import earlier_turns
from mmalign.data.columns.objects import grounded
from mmalign.data.columns.turns import answer_of, as_prompt, conversation, split_answer
from mmalign.errors import UserError

__all__ = ["DIALECT"]


def _convert(record: Mapping[str, Any], where: str) -> Example:
    turns, answer = _conversation(record, where)
    rejected = _rejected(record, turns, where)
    if rejected is not None and answer is None:
        raise UserError(
            f"{where}: has a rejected answer, but its conversation ends without the preferred one"
        )
    objects, contents = record.get("objects"), [turn["content"] for turn in turns]
    *shown, answer = grounded([*contents, answer], objects, where)
    rejected = grounded([*contents, rejected], objects, where)[-1]
    turns = [{**turn, "content": content} for turn, content in zip(turns, shown, strict=True)]
    return Example(
        prompt=as_prompt(turns),
        completion=answer if rejected is None else None,
        chosen=None if rejected is None else answer,
        rejected=rejected,
        label=record.get("label"),
        tagged=True,
        replaces=True,
    )


def _conversation(record: Mapping[str, Any], where: str) -> tuple[list[Any], Any]:
    if "messages" in record and "query" in record:
        raise UserError(f"{where}: holds both 'messages' and 'query'; expected one of them")
    if "messages" in record:
        turns, answer = split_answer(conversation(record["messages"], "messages", where))
    elif "query" in record:
        turns, answer = [{"role": "user", "content": str(record["query"])}], record.get("response")
    else:
        raise UserError(f"{where}: has no column 'messages' or 'query', only {sorted(record)}")
    turns = [*earlier_turns(record.get("history"), where), *turns]
    if "system" in record:
        turns = [{"role": "system", "content": str(record["system"])}, *turns]
    if not turns:
        raise UserError(f"{where}: 'messages' holds an answer but no prompt")
    return turns, answer


def _rejected(record: Mapping[str, Any], prompt: list[Any], where: str) -> Any:
    if "rejected_messages" not in record:
        return answer_of(record.get("rejected_response"), "rejected_response", where)
    if "rejected_response" in record:
        raise UserError(
            f"{where}: holds both 'rejected_response' and 'rejected_messages'; expected one of them"
        )
    turns, answer = split_answer(conversation(record["rejected_messages"], "rejected_messages", where))
    if turns != prompt[len(prompt) - len(turns) :] or answer is None:
        raise UserError(f"{where}: 'rejected_messages' must be the prompt of 'messages' with another answer")
    return answer


DIALECT = Dialect(
    name="swift",
    title="ms-swift",
    markers=frozenset({"query", "rejected_response", "rejected_messages"}),
    fields={
        "messages": "prompt and completion or chosen",
        "query": "prompt",
        "response": "completion or chosen",
        "history": "prompt (earlier turns)",
        "system": "prompt (system turn)",
        "rejected_response": "rejected",
        "rejected_messages": "rejected",
        "objects": "prompt (names and boxes)",
        "label": "label",
    },
    convert=_convert,
)
"""ms-swift's columns."""
