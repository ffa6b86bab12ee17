"""Conversations: checking them, splitting prompt from answer, and the prompt that two candidates share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmalign.errors import UserError

__all__ = ["answer_of", "as_prompt", "conversation", "is_conversation", "shared_prompt", "split_answer"]

Message = Mapping[str, Any]


def is_conversation(value: Any) -> bool:
    """Whether ``value`` is a non-empty list of ``{role, content}`` messages."""
    return (
        isinstance(value, list | tuple)
        and bool(value)
        and all(isinstance(message, Mapping) and "role" in message for message in value)
    )


def conversation(value: Any, column: str, where: str) -> list[Message]:
    """``value`` as a list of messages.

    Raises:
        UserError: when it is none.
    """
    if not is_conversation(value) or any("content" not in message for message in value):
        raise UserError(f"{where}: {column!r} must be a list of {{role, content}} records")
    return [_plain(message) for message in value]


def as_prompt(turns: Sequence[Message]) -> Any:
    """A single user turn of plain text as text, anything else as messages."""
    if len(turns) == 1 and turns[0]["role"] == "user" and isinstance(turns[0]["content"], str):
        return turns[0]["content"]
    return list(turns)


def split_answer(turns: list[Message]) -> tuple[list[Message], Any]:
    """Prompt and answer: the last message is the answer when the assistant says it."""
    if turns[-1]["role"] == "assistant":
        return turns[:-1], turns[-1]["content"]
    return turns, None


def answer_of(value: Any, column: str, where: str) -> Any:
    """An answer as text where it is one assistant message, else as it is.

    Raises:
        UserError: when it goes on for several turns, or someone else says it.
    """
    if isinstance(value, Mapping) and "role" in value:
        value = [value]
    if not is_conversation(value):
        return value
    roles = {message["role"] for message in value}
    if roles != {"assistant"}:
        raise UserError(
            f"{where}: {column!r} must be what the assistant says after the prompt, but it holds turns of "
            f"{', '.join(sorted(map(str, roles)))}"
        )
    return value[0].get("content") if len(value) == 1 else list(value)


def shared_prompt(chosen: Any, rejected: Any, where: str) -> tuple[Any, Any, Any]:
    """Prompt, chosen and rejected from two candidates that both begin with the prompt (TRL's implicit prompt).

    Conversations share their longest common beginning that leaves each an answer; texts share whole words (TRL
    splits between characters).

    Raises:
        UserError: when the candidates share no beginning, or differ before the answer.
    """
    if is_conversation(chosen) and is_conversation(rejected):
        chosen, rejected = (
            conversation(v, n, where) for v, n in ((chosen, "chosen"), (rejected, "rejected"))
        )
        limit = min(len(chosen), len(rejected)) - 1
        cut = next((k for k in range(limit) if chosen[k] != rejected[k]), limit)
        if cut == 0:
            raise UserError(
                f"{where}: 'chosen' and 'rejected' share no prompt and there is no column 'prompt'"
            )
        prompt = as_prompt(chosen[:cut])
        return prompt, answer_of(chosen[cut:], "chosen", where), answer_of(rejected[cut:], "rejected", where)
    if isinstance(chosen, str) and isinstance(rejected, str):
        cut = _common_words(chosen, rejected)
        if not chosen[:cut].strip():
            raise UserError(
                f"{where}: 'chosen' and 'rejected' share no prompt and there is no column 'prompt'"
            )
        return chosen[:cut], chosen[cut:], rejected[cut:]
    raise UserError(f"{where}: without a column 'prompt', 'chosen' and 'rejected' must be two conversations")


def _common_words(first: str, second: str) -> int:
    """Length of the longest common beginning that ends before white space (which belongs to the answers)."""
    limit = min(len(first), len(second))
    cut = next((k for k in range(limit) if first[k] != second[k]), limit)
    inside = 0 < cut < max(len(first), len(second)) and not first[cut - 1].isspace()
    while inside and cut > 0 and not first[cut - 1].isspace():
        cut -= 1
    while cut > 0 and first[cut - 1].isspace():
        cut -= 1
    return cut


def _plain(message: Message) -> Message:
    """A message without the empty fields that columnar files add to every part."""
    content = message["content"]
    if isinstance(content, list | tuple):
        content = [{k: v for k, v in part.items() if v is not None} if isinstance(part, Mapping) else part
                   for part in content]  # fmt: skip
    return {**{k: v for k, v in message.items() if v is not None}, "content": content}
