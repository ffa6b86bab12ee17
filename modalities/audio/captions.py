"""Captions to token ids, each different one once per batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmalign.errors import UserError
from mmalign.modalities.tokens.prompts import plain_text
from mmalign.types import Row

__all__ = ["CaptionEncoder"]

_WIDTH = 16
"""Captions are padded to a multiple of this, so that one caption looks the same to the cache in most batches."""


class CaptionEncoder:
    """Tokenises captions; an empty one has no tokens at all."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __call__(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """``caption_ids`` and ``caption_mask`` ``[U, L]`` of the different captions, ``caption_of`` ``[B]``.

        Raises:
            UserError: naming the row, for a prompt that is no text, or for media, which no music model reads here.
        """
        places: dict[str, int] = {}
        of = [places.setdefault(self._caption(row), len(places)) for row in rows]
        ids = [self._tokenizer(text)["input_ids"] if text else [] for text in places]
        width = -(-max(1, *map(len, ids)) // _WIDTH) * _WIDTH
        pad = self._tokenizer.pad_token_id or 0
        table = torch.full((len(ids), width), pad, dtype=torch.long)
        mask = torch.zeros((len(ids), width), dtype=torch.long)
        for place, tokens in enumerate(ids):
            table[place, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
            mask[place, : len(tokens)] = 1
        return {"caption_ids": table, "caption_mask": mask, "caption_of": torch.tensor(of)}

    @staticmethod
    def _caption(row: Row) -> str:
        if row.media:
            raise UserError(
                f'row "{row.id}": carries {len(row.media)} media, which modality audio cannot read; '
                "to answer questions about sounds use modality: audio-text"
            )
        text = row.prompt if isinstance(row.prompt, str) else plain_text(row.prompt)
        if text is None:
            raise UserError(f'row "{row.id}": the prompt must be a caption, not {type(row.prompt).__name__}')
        return text.strip()
