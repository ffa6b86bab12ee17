"""Rows to token ids and media tensors, one row at a time; prompts are remembered in a small cache."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from mmalign.errors import UserError
from mmalign.modalities.tokens.prompts import answer_text
from mmalign.types import Row

__all__ = ["EncodedPrompt", "PromptSource", "RowEncoder"]


@dataclass(frozen=True, slots=True, eq=False)
class EncodedPrompt:
    """One prompt: ``ids`` ``[L]``, per-token tensors ``[L]`` and the media tensors of the row.

    Two rows with the same prompt and media get the same object, so sharing is seen by identity.
    """

    ids: Tensor
    per_token: Mapping[str, Tensor] = field(default_factory=dict)
    media: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes held by every tensor of the prompt."""
        tensors = [self.ids, *self.per_token.values(), *self.media.values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class PromptSource(Protocol):
    """How a modality turns a row's prompt and media into tensors."""

    tokenizer: Any
    frame: tuple[str, str]
    """What the chat template writes right before and right after an answer."""

    def key(self, row: Row) -> str:
        """A name that two rows share exactly when their prompts and media are the same."""
        ...

    def encode(self, row: Row) -> EncodedPrompt:
        """The prompt's tensors."""
        ...


class RowEncoder:
    """Encodes prompts and answers; prompts are cached by content.

    Args:
        source: the modality's way with prompts.
        stop_ids: token ids that end an answer; the one the chat template writes is preferred.
        cache_bytes: how much memory the cache of processed prompts may hold.
    """

    def __init__(
        self, source: PromptSource, stop_ids: tuple[int, ...], cache_bytes: int = 256 * 2**20
    ) -> None:
        self.tokenizer = source.tokenizer
        self.stop_ids = stop_ids
        self.lead, tail = source.frame
        self.end_id = self._end_id(tail)
        self._source = source
        self._cache: OrderedDict[str, EncodedPrompt] = OrderedDict()
        self._cache_bytes = cache_bytes
        self._held = 0

    def prompt(self, row: Row) -> EncodedPrompt:
        """Encode the prompt and the media of ``row`` (at most once per content)."""
        key = self._source.key(row)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        encoded = self._source.encode(row)
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

    def _end_id(self, tail: str) -> int:
        ids = self.tokenizer(tail, add_special_tokens=False)["input_ids"] if tail else []
        for token in ids[:1]:
            if token in self.stop_ids:
                return int(token)
        eos = self.tokenizer.eos_token_id
        return int(eos) if eos in self.stop_ids or not self.stop_ids else self.stop_ids[0]
