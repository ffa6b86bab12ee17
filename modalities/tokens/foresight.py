"""Reading one's own prediction back: answer tokens whose input embedding is blended with the predicted token's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mmalign.modalities.tokens.forward import unwrap
from mmalign.modalities.tokens.head import head_logits
from mmalign.modalities.tokens.packing import Packed
from mmalign.types import Batch

__all__ = ["answer_places", "blended_answers", "greedy_tokens"]

_ROWS = 256
"""States that get logits at once."""


def answer_places(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
    """Row and column of every real answer token in the batch's own layout, each ``[N]``, row by row of the mask."""
    mask = batch.mask.to(device)
    packed = batch.inputs.get("packed")
    if isinstance(packed, Packed):
        columns = packed.before[:, 1:].to(device)[mask]
        return torch.zeros_like(columns), columns
    steps = torch.arange(mask.shape[1], device=device)
    columns = (batch.inputs["start"].to(device)[:, None] + steps)[mask]
    rows = torch.arange(len(batch), device=device)[:, None].expand_as(mask)[mask]
    return rows, columns


@torch.no_grad()
def greedy_tokens(model: nn.Module, states: Tensor, forbidden: Tensor | None) -> Tensor:
    """The most likely token after each of ``states`` ``[N, H]``."""
    parts = [head_logits(model, some, forbidden).argmax(-1) for some in states.split(_ROWS)]
    return torch.cat(parts) if parts else states.new_zeros(0, dtype=torch.long)


@contextmanager
def blended_answers(
    model: nn.Module, places: tuple[Tensor, Tensor], tokens: Tensor, blend: float
) -> Iterator[None]:
    """Inside the block the input embedding at ``places`` is ``(1 - blend) * own + blend * that of tokens``."""
    embedding: nn.Module = unwrap(model).get_input_embeddings()
    busy = False

    def mix(module: nn.Module, _inputs: Any, output: Tensor) -> Tensor | None:
        nonlocal busy
        if busy:
            return None
        busy = True
        other = module(tokens)
        busy = False
        own = output[places]
        return output.index_put(places, (1 - blend) * own + blend * other)

    hook = embedding.register_forward_hook(mix)
    try:
        yield
    finally:
        hook.remove()
