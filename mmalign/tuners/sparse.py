"""A linear layer with a sparse trainable change of its weight, whose backward needs little memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["scattered", "sparse_linear", "sparse_weight_gradient"]

_BLOCK_BYTES = 2 * 2**20
_DENSE_SHARE = 75
"""Above one picked entry in so many, one matrix product is quicker than gathering (measured on a CPU)."""


def scattered(weight: Tensor, indices: Tensor, values: Tensor) -> Tensor:
    """``weight`` plus ``values`` at the flat positions ``indices``, differentiable in ``values``."""
    flat = weight.reshape(-1).index_add(0, indices, values.to(weight.dtype))
    return flat.view(weight.shape)


def sparse_weight_gradient(x: Tensor, grad: Tensor, indices: Tensor) -> Tensor:
    """``(grad^T x)`` at flat positions only: ``sum_t grad[t, i // n] * x[t, i % n]``, in blocks of at most 2 MiB.

    Args:
        x: inputs ``[T, n]``.
        grad: gradient of the outputs ``[T, m]``.
        indices: ascending flat positions into ``[m, n]``, ``[k]``.
    """
    wide = x.shape[1]
    rows, cols = indices // wide, indices % wide
    if len(indices) * _DENSE_SHARE < grad.shape[1] * wide:
        return _gathered(x, grad, rows, cols)
    out = torch.empty(len(indices), dtype=x.dtype, device=x.device)
    step = max(1, _BLOCK_BYTES // (x.element_size() * wide))
    for start in range(0, grad.shape[1], step):
        here = torch.searchsorted(rows, torch.tensor([start, start + step], device=rows.device)).tolist()
        block = grad[:, start : start + step].T @ x
        out[here[0] : here[1]] = block.view(-1)[indices[here[0] : here[1]] - start * wide]
    return out


def _gathered(x: Tensor, grad: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    total = torch.zeros(len(rows), dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
    step = max(1, _BLOCK_BYTES // (2 * x.element_size() * max(1, len(rows))))
    for start in range(0, len(x), step):
        left = grad[start : start + step].index_select(1, rows)
        total += left.mul_(x[start : start + step].index_select(1, cols)).sum(0)
    return total


class _SparseLinear(torch.autograd.Function):
    """``x (W + S)^T + b``; keeps ``x`` and the values, never a second weight."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, indices: Tensor, values: Tensor
    ) -> Tensor:
        ctx.save_for_backward(x, weight, indices, values)
        ctx.has_bias = bias is not None and bias.requires_grad
        out = x.new_empty(*x.shape[:-1], weight.shape[0])
        for start, stop, block in _blocks(weight, indices, values):
            part = None if bias is None else bias[start:stop]
            out[..., start:stop] = F.linear(x, block, part)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, indices, values = ctx.saved_tensors
        flat = grad.reshape(-1, grad.shape[-1])
        grad_x = grad_values = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = x.new_zeros(x.shape)
            rows = grad_x.view(-1, x.shape[-1])
            for start, stop, block in _blocks(weight, indices, values):
                rows.addmm_(flat[:, start:stop], block)
        if ctx.needs_input_grad[4]:
            grad_values = sparse_weight_gradient(x.reshape(-1, x.shape[-1]), flat, indices).to(values.dtype)
        if ctx.has_bias:
            grad_bias = flat.sum(0)
        return grad_x, None, grad_bias, None, grad_values


def _blocks(weight: Tensor, indices: Tensor, values: Tensor) -> Any:
    """Row blocks of the changed weight, each a copy of its own: ``(start, stop, block)``."""
    wide = weight.shape[1]
    step = max(1, 2 * _BLOCK_BYTES // (weight.element_size() * wide))
    edges = torch.arange(0, weight.shape[0] + step, step, device=indices.device) * wide
    places = torch.searchsorted(indices, edges).tolist()
    for number, start in enumerate(range(0, weight.shape[0], step)):
        block = weight[start : start + step].clone()
        low, high = places[number], places[number + 1]
        block.view(-1).index_add_(0, indices[low:high] - start * wide, values[low:high].to(weight.dtype))
        yield start, min(start + step, weight.shape[0]), block
        del block


def sparse_linear(x: Tensor, weight: Tensor, bias: Tensor | None, indices: Tensor, values: Tensor) -> Tensor:
    """``x (W + S)^T + b`` where ``S`` is zero but for ``values`` at ``indices``.

    Equals ``F.linear(x, scattered(weight, indices, values), bias)`` with its gradients, and keeps neither the changed
    weight nor its gradient: at ``k`` picks the extra memory is a few blocks of 4 MiB, where the product of all picks
    with all picks that the reference code takes the diagonal of needs ``4 k^2`` bytes.

    Reference: He et al. 2023, arXiv 2303.08566 (SPT).

    Args:
        x: inputs ``[..., n]``.
        weight: the frozen ``[m, n]``; gets no gradient.
        bias: ``[m]`` or ``None``.
        indices: ascending flat positions, ``[k]``, int64.
        values: what is added there, ``[k]``.
    """
    return _SparseLinear.apply(x, weight, bias, indices, values)
