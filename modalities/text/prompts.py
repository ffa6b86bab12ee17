"""Text prompts and conversations to token ids."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mmalign.errors import UserError
from mmalign.modalities.tokens.encoding import EncodedPrompt
from mmalign.modalities.tokens.prompts import answer_frame, plain_text, render
from mmalign.types import Row

__all__ = ["TextPrompts"]


class TextPrompts:
    """Encodes prompts with one tokenizer, through its chat template where it has one."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._chat = bool(getattr(tokenizer, "chat_template", None))
        self.frame = answer_frame(tokenizer, parts=False) if self._chat else ("", "")

    def key(self, row: Row) -> str:
        """The prompt itself."""
        return json.dumps(row.prompt, sort_keys=True, default=str)

    def encode(self, row: Row) -> EncodedPrompt:
        """Token ids of the rendered prompt.

        Raises:
            UserError: for an empty prompt, or a conversation without a chat template.
        """
        # A chat template writes its own special tokens; a plain prompt gets the tokenizer's.
        ids = self.tokenizer(self._text(row), add_special_tokens=not self._chat)["input_ids"]
        if not ids:
            raise UserError(f'row "{row.id}": the prompt has no tokens; give it at least one word')
        return EncodedPrompt(torch.tensor(ids, dtype=torch.long))

    def _text(self, row: Row) -> str:
        if isinstance(row.prompt, str):
            if not self._chat:
                return row.prompt
            return render(self.tokenizer, [{"role": "user", "content": row.prompt}], row.id)
        if not isinstance(row.prompt, Sequence) or not row.prompt:
            raise UserError(f'row "{row.id}": prompt must be text or a non-empty list of messages')
        if not self._chat:
            raise UserError(
                f'row "{row.id}": the prompt is a conversation but the tokenizer has no chat template; '
                "put a chat_template.jinja beside it, or give prompts as plain text"
            )
        return render(self.tokenizer, [_message(turn, row.id) for turn in row.prompt], row.id)


def _message(turn: Any, row_id: str) -> dict[str, str]:
    if not isinstance(turn, Mapping) or "role" not in turn or "content" not in turn:
        raise UserError(f'row "{row_id}": every message needs "role" and "content"')
    return {"role": turn["role"], "content": plain_text([turn]) or ""}
