"""What a forward pass keeps for the backward pass: the activation memory that a tuner costs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["saved_bytes"]


def saved_bytes(model: nn.Module, x: Tensor) -> int:
    """Bytes of activations that the graph of one forward pass holds.

    Distinct storages that autograd saves are counted once and whole; parameters and the input are not activations.
    The model stays in the mode it is in.
    """
    own = {p.untyped_storage().data_ptr() for p in model.parameters()} | {x.untyped_storage().data_ptr()}
    held: dict[int, int] = {}
    alive = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(x).sum()
    return sum(held.values())
