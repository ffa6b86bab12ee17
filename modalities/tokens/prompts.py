"""From a row's prompt to the text the processor sees: chat messages, image parts, the end of an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2.exceptions import TemplateError

from mmalign.errors import UserError
from mmalign.types import Row

__all__ = ["answer_frame", "answer_text", "messages", "plain_text", "render"]

_SENTINEL = "answer"


def messages(row: Row, token: str | None, kind: str = "image") -> list[dict[str, Any]]:
    """Return the row's prompt as chat messages whose contents are lists of typed parts.

    Media parts (of ``kind``) are put at the start of the first user turn when the prompt shows none of its own,
    neither as ``{"type": "image"}`` parts nor as literal placeholders (``token``) in its text.

    Raises:
        UserError: when the prompt shows a different number of media than the row carries.
    """
    if isinstance(row.prompt, str):
        turns: list[dict[str, Any]] = [{"role": "user", "content": _parts(row.prompt, row.id, kind)}]
    elif isinstance(row.prompt, Sequence) and row.prompt:
        turns = [_turn(message, row.id, kind) for message in row.prompt]
    else:
        raise UserError(f'row "{row.id}": prompt must be text or a non-empty list of messages')
    shown = sum(_count_media(turn["content"], token, kind) for turn in turns)
    if shown == 0 and row.media:
        first = next((turn for turn in turns if turn["role"] == "user"), None)
        if first is None:
            raise UserError(f'row "{row.id}": no user message to put the {kind} in')
        first["content"] = [{"type": kind} for _ in row.media] + first["content"]
    elif shown != len(row.media):
        raise UserError(
            f'row "{row.id}": the prompt shows {shown} {kind}(s) but the row carries {len(row.media)}'
        )
    return turns


def render(processor: Any, turns: Sequence[Mapping[str, Any]], row_id: str) -> str:
    """Apply the chat template up to the point where the answer begins."""
    try:
        text: str = processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        return text
    except (TemplateError, TypeError, ValueError) as error:
        raise UserError(f'row "{row_id}": the chat template refused the prompt ({error})') from error


def answer_frame(processor: Any, *, parts: bool = True) -> tuple[str, str]:
    """Return what the chat template writes before and after an assistant answer.

    The lead is the white space some templates put between the generation prompt and the answer; the
    tail begins with the token that ends an assistant turn.  Both are empty when the template does not
    tell (it treats finished turns differently from open ones).  ``parts``: contents are lists of typed parts (image
    models), or plain text.
    """

    def turn(role: str, text: str) -> dict[str, Any]:
        return {"role": role, "content": [{"type": "text", "text": text}] if parts else text}

    user, said = turn("user", "question"), turn("assistant", _SENTINEL)
    try:
        opened = processor.apply_chat_template([user], add_generation_prompt=True, tokenize=False)
        closed = processor.apply_chat_template([user, said], add_generation_prompt=False, tokenize=False)
    except (TemplateError, TypeError, ValueError):
        return "", ""
    if not closed.startswith(opened) or _SENTINEL not in closed[len(opened) :]:
        return "", ""
    lead, _, tail = closed[len(opened) :].partition(_SENTINEL)
    return (lead if not lead.strip() else ""), tail


def answer_text(row: Row) -> str:
    """Return the completion as text; a TRL list of assistant messages is joined.

    Raises:
        UserError: when the completion is missing, empty or of another type.
    """
    answer = plain_text(row.completion)
    if answer is None:
        raise UserError(
            f'row "{row.id}": completion must be text or assistant messages, not {type(row.completion).__name__}'
        )
    if not answer.strip():
        raise UserError(f'row "{row.id}": the response is empty; remove the row or give it an answer')
    return answer


def plain_text(value: Any) -> str | None:
    """The words of a text or of a list of messages (one line each), or ``None`` for anything else."""
    if isinstance(value, str):
        return value
    if not isinstance(value, Sequence) or not value or not all(isinstance(item, Mapping) for item in value):
        return None
    lines = []
    for message in value:
        content = message.get("content", "")
        parts = [{"text": content}] if isinstance(content, str) else (content or [])
        lines.append("".join(str(part.get("text", "")) for part in parts))
    return "\n".join(lines)


def _turn(message: Any, row_id: str, kind: str) -> dict[str, Any]:
    if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
        raise UserError(f'row "{row_id}": every message needs "role" and "content"')
    return {"role": message["role"], "content": _parts(message["content"], row_id, kind)}


def _parts(content: Any, row_id: str, kind: str) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, Sequence) or not all(isinstance(part, Mapping) for part in content):
        raise UserError(f'row "{row_id}": message content must be text or a list of typed parts')
    return [{"type": kind} if _shows(part, kind) else dict(part) for part in content]


def _shows(part: Mapping[str, Any], kind: str) -> bool:
    return part.get("type") in (kind, f"{kind}_url")


def _count_media(parts: list[dict[str, Any]], token: str | None, kind: str) -> int:
    literal = sum(str(part.get("text", "")).count(token) for part in parts) if token else 0
    return literal + sum(1 for part in parts if _shows(part, kind))
