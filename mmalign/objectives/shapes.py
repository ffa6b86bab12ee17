"""Shape and dtype checks that open every objective: a wrong tensor fails by name, before any maths."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["check_floats", "check_group", "check_steps", "fill"]


def check_steps(mask: Tensor, tensors: Mapping[str, Tensor]) -> None:
    """Require a boolean ``[B, T]`` mask and floating tensors of exactly its shape.

    Raises:
        ValueError: naming the tensor, its shape or dtype, and what was expected.
    """
    if mask.dtype != torch.bool or mask.dim() != 2:
        raise ValueError(f"mask must be a boolean [B, T] tensor, got {mask.dtype} {tuple(mask.shape)}")
    for name, tensor in tensors.items():
        if tensor.shape != mask.shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}, expected the mask's {tuple(mask.shape)}"
            )
        if not tensor.is_floating_point():
            raise ValueError(f"{name} must be a floating tensor, got {tensor.dtype}")


def check_floats(tensors: Mapping[str, Tensor], dim: int) -> None:
    """Require floating tensors of ``dim`` dimensions and one common shape.

    Raises:
        ValueError: naming the tensor, its shape or dtype, and what was expected.
    """
    first: Tensor | None = None
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.dim() != dim:
            shape = tuple(tensor.shape)
            raise ValueError(
                f"{name} must be a floating tensor of {dim} dimensions, got {tensor.dtype} {shape}"
            )
        first = tensor if first is None else first
        if tensor.shape != first.shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {tuple(first.shape)}")


def check_group(group: Tensor, batch: int) -> None:
    """Require integer group numbers ``[B]``: samples of one prompt share a number.

    Raises:
        ValueError: on a floating or boolean dtype, or a length other than ``batch``.
    """
    if group.is_floating_point() or group.dtype == torch.bool:
        raise ValueError(f"group must hold integers, got {group.dtype}")
    if group.shape != (batch,):
        raise ValueError(f"group has shape {tuple(group.shape)}, expected ({batch},)")


def fill(x: Tensor, mask: Tensor, value: float = 0.0) -> Tensor:
    """``x`` with ``value`` wherever ``mask`` is false: garbage (NaN, inf) goes, and its gradient is 0.

    Call it *before* any arithmetic: ``where`` after an ``exp`` still sends ``0 * inf = NaN`` backwards.
    """
    return torch.where(mask, x, torch.full_like(x, value))
