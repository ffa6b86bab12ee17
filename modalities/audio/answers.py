"""Answers to codes: as recorded by the sampler, or a sound through the codec."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor

from mmalign.data.audio import Clip
from mmalign.errors import UserError
from mmalign.modalities.audio.codec import Codec
from mmalign.modalities.audio.sound import LazyClip, content_name, open_sound
from mmalign.types import Row

__all__ = ["AnswerCodes"]

_KEPT = 4096
"""Encoded sounds that are remembered."""


class AnswerCodes:
    """Finds the codes ``[F, K]`` of a row's answer.

    Args:
        codec: encodes and decodes.
        codebooks: codes per frame.
        vocabulary: entries of each codebook.
    """

    def __init__(self, codec: Codec, codebooks: int, vocabulary: int) -> None:
        self.codec = codec
        self._books, self._vocabulary = codebooks, vocabulary
        self._known: OrderedDict[str, Tensor] = OrderedDict()

    def __call__(self, row: Row) -> Tensor:
        """``row.steps`` as they are, else ``row.completion`` through the codec.

        Raises:
            UserError: naming the row, when there is no answer, it is no sound, or its codes are none of this policy.
        """
        if row.steps is not None:
            codes = torch.as_tensor(row.steps, dtype=torch.long)
        elif isinstance(row.completion, LazyClip):
            codes = row.completion.codes
        elif row.completion is not None:
            codes = self._encoded(row)
        else:
            raise UserError(f'row "{row.id}": has neither a sound nor codes, so there is nothing to score')
        if codes.dim() != 2 or codes.shape[1] != self._books or not len(codes):
            raise UserError(f'row "{row.id}": codes must be [frames, {self._books}], got {list(codes.shape)}')
        if not 0 <= int(codes.min()) <= int(codes.max()) < self._vocabulary:
            raise UserError(
                f'row "{row.id}": codes must be 0..{self._vocabulary - 1}, got {int(codes.min())}..{int(codes.max())}'
            )
        return codes

    def clip(self, row: Row) -> Clip:
        """The sound of a row's answer."""
        if row.completion is not None:
            return open_sound(row.completion, row.id, self.codec.sampling_rate)
        return LazyClip(self.codec, self(row)).clip

    def _encoded(self, row: Row) -> Tensor:
        name = content_name(row.completion, row.id)
        if name not in self._known:
            clip = open_sound(row.completion, row.id, self.codec.sampling_rate)
            self._known[name] = self.codec.encode(clip.samples)
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return self._known[name]
