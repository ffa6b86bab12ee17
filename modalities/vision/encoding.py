"""Prompts with images to token ids and pixel tensors, through a Hugging Face processor."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import torch

from mmalign.errors import UserError
from mmalign.modalities.tokens.encoding import EncodedPrompt
from mmalign.modalities.tokens.prompts import answer_frame, messages, render
from mmalign.modalities.vision.media import content_key, open_image
from mmalign.types import Row

__all__ = ["ImagePrompts"]

_PER_TOKEN = ("token_type_ids", "mm_token_type_ids")
_DROPPED = ("input_ids", "attention_mask", "labels", "num_patches", "num_crops")


class ImagePrompts:
    """Encodes the prompts of one processor with a chat template.

    The defaults are those of images; another kind of media (a sound) says what it is called in prompts and by the
    processor, how one is opened and how it is named by its content.

    Args:
        processor: the processor of the model.
        kind: the type of the parts that show a medium.
        column: the processor's argument for media.
        opened: ``(media, row id) -> what the processor takes``.
        named: ``(media, row id) -> a name that changes with the content``.
        settings: further arguments of the processor.
    """

    def __init__(
        self,
        processor: Any,
        *,
        kind: str = "image",
        column: str = "images",
        opened: Callable[[Any, str], Any] = open_image,
        named: Callable[[Any, str], str] = content_key,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.tokenizer = processor.tokenizer
        self.frame = answer_frame(processor)
        self._processor = processor
        self._token: str | None = getattr(processor, f"{kind}_token", None)
        self._kind, self._column, self._opened, self._named = kind, column, opened, named
        self._settings = dict(settings or {})

    def key(self, row: Row) -> str:
        """A hash of the messages and of the content of every medium."""
        names = [self._named(media, row.id) for media in row.media]
        text = json.dumps([messages(row, self._token, self._kind), names], default=str)
        return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    def encode(self, row: Row) -> EncodedPrompt:
        """Run the processor on the rendered prompt and its media.

        Raises:
            UserError: when a medium cannot be read or the processor refuses the prompt.
        """
        text = render(self._processor, messages(row, self._token, self._kind), row.id)
        opened = [self._opened(media, row.id) for media in row.media]
        bos = self.tokenizer.bos_token
        special = not (bos and text.startswith(bos))
        try:
            out = self._processor(
                text=[text],
                return_tensors="pt",
                add_special_tokens=special,
                **self._media(opened),
            )
        except (ValueError, TypeError, IndexError) as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f'row "{row.id}": the processor refused the prompt ({first})') from error
        return EncodedPrompt(
            ids=out["input_ids"][0],
            per_token={name: out[name][0] for name in _PER_TOKEN if name in out},
            media={
                name: value
                for name, value in out.items()
                if isinstance(value, torch.Tensor) and name not in (*_PER_TOKEN, *_DROPPED)
            },
        )

    def _media(self, opened: list[Any]) -> dict[str, Any]:
        """The processor's arguments for media; image processors take one list per text, others one list of all."""
        if not opened:
            return {}
        return {self._column: [opened] if self._column == "images" else opened, **self._settings}
