"""Rows to token ids and pixel tensors, one row at a time, remembered in a small cache."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmalign.errors import UserError
from mmalign.modalities.vision.media import content_key, open_image
from mmalign.modalities.vision.prompts import answer_frame, answer_text, messages, render
from mmalign.types import Row

__all__ = ["EncodedPrompt", "RowEncoder"]

_PER_TOKEN = ("token_type_ids", "mm_token_type_ids")
_DROPPED = ("input_ids", "attention_mask", "labels", "num_patches", "num_crops")


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """One prompt: ``ids`` ``[L]``, per-token tensors ``[L]`` and the media tensors of the row."""

    ids: Tensor
    per_token: Mapping[str, Tensor]
    media: Mapping[str, Tensor]

    @property
    def nbytes(self) -> int:
        """Bytes held by every tensor of the prompt."""
        tensors = [self.ids, *self.per_token.values(), *self.media.values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class RowEncoder:
    """Encodes prompts and answers with one processor; prompts are cached by content.

    Args:
        processor: a Hugging Face processor with a chat template.
        stop_ids: token ids that end an answer; the one the chat template writes is preferred.
        cache_bytes: how much memory the cache of processed prompts may hold.
    """

    def __init__(self, processor: Any, stop_ids: tuple[int, ...], cache_bytes: int = 256 * 2**20) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.image_token: str | None = getattr(processor, "image_token", None)
        self.stop_ids = stop_ids
        self.lead, tail = answer_frame(processor)
        self.end_id = self._end_id(tail)
        self._cache: OrderedDict[str, EncodedPrompt] = OrderedDict()
        self._cache_bytes = cache_bytes
        self._held = 0

    def prompt(self, row: Row) -> EncodedPrompt:
        """Encode the prompt and the media of ``row`` (at most once per content)."""
        turns = messages(row, self.image_token)
        names = [content_key(media, row.id) for media in row.media]
        key = hashlib.sha1(
            json.dumps([turns, names], default=str).encode(), usedforsecurity=False
        ).hexdigest()
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        encoded = self._process(row, render(self.processor, turns, row.id))
        self._cache[key] = encoded
        self._held += encoded.nbytes
        while self._held > self._cache_bytes and len(self._cache) > 1:
            self._held -= self._cache.popitem(last=False)[1].nbytes
        return encoded

    def answer(self, row: Row) -> list[int]:
        """Token ids of the answer: ``row.steps`` as recorded, else the encoded completion + end token."""
        if row.steps is not None:
            ids = [int(token) for token in row.steps]
            if not ids:
                raise UserError(f'row "{row.id}": the response has no tokens')
            return ids
        text = self.lead + answer_text(row)
        return [*self.tokenizer(text, add_special_tokens=False)["input_ids"], self.end_id]

    def answer_offsets(self, row: Row) -> tuple[list[int], list[int]]:
        """Token ids of the completion and, for each, the character of the completion it ends at."""
        text = self.lead + answer_text(row)
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ends = [max(0, end - len(self.lead)) for _, end in encoded["offset_mapping"]]
        return [*encoded["input_ids"], self.end_id], [*ends, ends[-1] if ends else 0]

    def _process(self, row: Row, text: str) -> EncodedPrompt:
        images = [open_image(media, row.id) for media in row.media]
        bos = self.tokenizer.bos_token
        special = not (bos and text.startswith(bos))
        try:
            out = self.processor(
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

    def _end_id(self, tail: str) -> int:
        ids = self.tokenizer(tail, add_special_tokens=False)["input_ids"] if tail else []
        for token in ids[:1]:
            if token in self.stop_ids:
                return int(token)
        eos = self.tokenizer.eos_token_id
        return int(eos) if eos in self.stop_ids or not self.stop_ids else self.stop_ids[0]
