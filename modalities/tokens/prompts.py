"""From a row's prompt to the text the processor sees: chat messages, image parts, the end of an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2.exceptions import TemplateError

from mmalign.errors import UserError
from mmalign.types import Row

__all__ = ["answer_frame", "answer_text", "messages", "plain_text", "render"]

_SENTINEL = "answer"


def messages(row: Row, image_token: str | None) -> list[dict[str, Any]]:
    """Return the row's prompt as chat messages whose contents are lists of typed parts.

    Image parts are put at the start of the first user turn when the prompt shows none of its own,
    neither as ``{"type": "image"}`` parts nor as literal image tokens in its text.

    Raises:
        UserError: when the prompt shows a different number of images than the row carries.
    """
    if isinstance(row.prompt, str):
        turns: list[dict[str, Any]] = [{"role": "user", "content": _parts(row.prompt, row.id)}]
    elif isinstance(row.prompt, Sequence) and row.prompt:
        turns = [_turn(message, row.id) for message in row.prompt]
    else:
        raise UserError(f'row "{row.id}": prompt must be text or a non-empty list of messages')
    shown = sum(_count_images(turn["content"], image_token) for turn in turns)
    if shown == 0 and row.media:
        first = next((turn for turn in turns if turn["role"] == "user"), None)
        if first is None:
            raise UserError(f'row "{row.id}": no user message to put the image in')
        first["content"] = [{"type": "image"} for _ in row.media] + first["content"]
    elif shown != len(row.media):
        raise UserError(
            f'row "{row.id}": the prompt shows {shown} image(s) but the row carries {len(row.media)}'
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


def _turn(message: Any, row_id: str) -> dict[str, Any]:
    if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
        raise UserError(f'row "{row_id}": every message needs "role" and "content"')
    return {"role": message["role"], "content": _parts(message["content"], row_id)}


def _parts(content: Any, row_id: str) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, Sequence) or not all(isinstance(part, Mapping) for part in content):
        raise UserError(f'row "{row_id}": message content must be text or a list of typed parts')
    return [{"type": "image"} if _is_image(part) else dict(part) for part in content]


def _is_image(part: Mapping[str, Any]) -> bool:
    return part.get("type") in ("image", "image_url")


def _count_images(parts: list[dict[str, Any]], image_token: str | None) -> int:
    literal = sum(str(part.get("text", "")).count(image_token) for part in parts) if image_token else 0
    return literal + sum(1 for part in parts if _is_image(part))
