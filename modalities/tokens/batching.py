"""Encoded rows to one padded batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from mmalign.modalities.tokens.encoding import EncodedPrompt

__all__ = ["PaddingSide", "merge_media", "pad_batch"]

PaddingSide = Literal["left", "right"]

_ANSWER_FILL = {"token_type_ids": 0, "mm_token_type_ids": 0}


def pad_batch(
    prompts: Sequence[EncodedPrompt],
    answers: Sequence[Sequence[int]],
    *,
    pad_id: int,
    side: PaddingSide,
    answer_type: int = 0,
) -> tuple[dict[str, Tensor], Tensor]:
    """Join prompts and answers into ``[B, L]`` tensors; return them with the step mask ``[B, T]``.

    ``inputs["start"]`` ``[B]`` is the column of the first answer token.  ``answer_type`` is the
    ``token_type_ids`` value of answer tokens (1 for PaliGemma's causal suffix, 0 elsewhere).
    """
    lengths = [len(prompt.ids) + len(answer) for prompt, answer in zip(prompts, answers, strict=True)]
    size, width, steps = len(prompts), max(lengths), max(len(answer) for answer in answers)
    ids = torch.full((size, width), pad_id, dtype=torch.long)
    attention = torch.zeros((size, width), dtype=torch.long)
    mask = torch.zeros((size, steps), dtype=torch.bool)
    start = torch.zeros(size, dtype=torch.long)
    names = sorted({name for prompt in prompts for name in prompt.per_token})
    fill = {**_ANSWER_FILL, "token_type_ids": answer_type}
    extra = {name: torch.full((size, width), fill[name], dtype=torch.long) for name in names}
    for index, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        offset = width - lengths[index] if side == "left" else 0
        begin = offset + len(prompt.ids)
        ids[index, offset:begin] = prompt.ids
        ids[index, begin : begin + len(answer)] = torch.as_tensor(answer, dtype=torch.long)
        attention[index, offset : offset + lengths[index]] = 1
        mask[index, : len(answer)] = True
        start[index] = begin
        for name in names:
            if name in prompt.per_token:
                extra[name][index, offset:begin] = prompt.per_token[name]
    inputs = {"input_ids": ids, "attention_mask": attention, "start": start, **extra}
    return {**inputs, **merge_media(prompts)}, mask


def merge_media(prompts: Sequence[EncodedPrompt]) -> dict[str, Tensor]:
    """Concatenate the media tensors of all rows along dimension 0, zero-padding the other dimensions.

    Rows without images contribute nothing; every supported family finds its images by order.
    """
    names = sorted({name for prompt in prompts for name in prompt.media})
    return {name: _cat([p.media[name] for p in prompts if name in p.media]) for name in names}


def _cat(tensors: Sequence[Tensor]) -> Tensor:
    shape = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    padded = []
    for tensor in tensors:
        if list(tensor.shape[1:]) != shape:
            wider = tensor.new_zeros((tensor.shape[0], *shape))
            wider[(slice(None), *(slice(size) for size in tensor.shape[1:]))] = tensor
            tensor = wider
        padded.append(tensor)
    return torch.cat(padded)
