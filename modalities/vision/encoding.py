"""Prompts with images to token ids and pixel tensors, through a Hugging Face processor."""

from __future__ import annotations

import hashlib
import json
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
    """Encodes the prompts of one processor with a chat template."""

    def __init__(self, processor: Any) -> None:
        self.tokenizer = processor.tokenizer
        self.frame = answer_frame(processor)
        self._processor = processor
        self._image_token: str | None = getattr(processor, "image_token", None)

    def key(self, row: Row) -> str:
        """A hash of the messages and of the content of every image."""
        names = [content_key(media, row.id) for media in row.media]
        text = json.dumps([messages(row, self._image_token), names], default=str)
        return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    def encode(self, row: Row) -> EncodedPrompt:
        """Run the processor on the rendered prompt and its images.

        Raises:
            UserError: when an image cannot be read or the processor refuses the prompt.
        """
        text = render(self._processor, messages(row, self._image_token), row.id)
        images = [open_image(media, row.id) for media in row.media]
        bos = self.tokenizer.bos_token
        special = not (bos and text.startswith(bos))
        try:
            out = self._processor(
                text=[text],
                images=[images] if images else None,
                return_tensors="pt",
                add_special_tokens=special,
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
