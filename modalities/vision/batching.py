"""Encoded rows to one padded batch, and the per-sample count of image placeholders."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from mmalign.errors import UserError
from mmalign.modalities.vision.encoding import EncodedPrompt
from mmalign.types import Row

__all__ = ["PaddingSide", "PlaceholderCheck", "count_features", "merge_media", "pad_batch"]

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


class PlaceholderCheck:
    """Compares the placeholders in a prompt with the features its images really give.

    The number of features depends on shapes alone, so the tower runs once per new shape, without
    gradient, and the answer is remembered.

    Args:
        image_id: the placeholder's token id.
        count: returns the number of image features for the media tensors of one row.
    """

    def __init__(self, image_id: int | None, count: Callable[[Mapping[str, Tensor]], int]) -> None:
        self._image_id = image_id
        self._count = count
        self._seen: dict[Any, int] = {}

    def __call__(self, row: Row, prompt: EncodedPrompt) -> None:
        """Raise when the row's placeholders and features differ.

        Raises:
            UserError: naming the row, the number of placeholders and the number of features.
        """
        if self._image_id is None:
            return
        found = int((prompt.ids == self._image_id).sum())
        expected = self._features(prompt.media)
        if found != expected:
            raise UserError(
                f'row "{row.id}": the prompt has {found} image placeholder token(s) but its '
                f"{len(row.media)} image(s) give {expected} feature(s); the processor's image settings "
                "do not match the model"
            )

    def _features(self, media: Mapping[str, Tensor]) -> int:
        if not media:
            return 0
        key = tuple((name, tuple(value.shape), _small(value)) for name, value in sorted(media.items()))
        if key not in self._seen:
            self._seen[key] = self._count(media)
        return self._seen[key]


def _small(value: Tensor) -> tuple[int, ...]:
    """The content of small integer tensors (grids, sizes), which decide counts as shapes do."""
    return tuple(value.flatten().tolist()) if not value.is_floating_point() and value.numel() <= 64 else ()


def count_features(model: Any, media: Mapping[str, Tensor]) -> int:
    """Return how many feature vectors the model makes of ``media``: from the patch grid, or one tower pass."""
    merge = getattr(getattr(model.config, "vision_config", None), "spatial_merge_size", None)
    if merge and "image_grid_thw" in media:
        return int((media["image_grid_thw"].prod(-1) // merge**2).sum())
    known = inspect.signature(model.get_image_features).parameters
    device = next(model.parameters()).device
    given = {name: value.to(device) for name, value in media.items() if name in known}
    with torch.no_grad():
        out = model.get_image_features(**given, return_dict=True)
    pooled = out.pooler_output if hasattr(out, "pooler_output") else out
    parts = [pooled] if isinstance(pooled, Tensor) else list(pooled)
    return sum(part.numel() // part.shape[-1] for part in parts)
