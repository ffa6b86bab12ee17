"""The backward pass of sparse weights: blocks of rows against the product of all picks with all picks, and autograd."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mmalign.bench.definition import Bench, Case, Comparison, Step
from mmalign.tuners.sparse import scattered, sparse_linear

__all__ = ["BENCH", "SparseSetting", "square_linear"]

VARIANTS = {
    "autograd": "W + scatter(values), gradient of the whole weight kept by autograd, then gathered",
    "square": "the diagonal of (picks x tokens)(tokens x picks), as the reference code takes it",
    "mmalign": "blocks of rows of at most 2 MiB, or picks gathered token by token",
}


class _Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, indices: Tensor, values: Tensor) -> Tensor:
        changed = scattered(weight, indices, values)
        ctx.save_for_backward(x, changed, indices)
        return F.linear(x, changed)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, changed, indices = ctx.saved_tensors
        wide = x.shape[1]
        square = grad[:, indices // wide].T @ x[:, indices % wide]
        return grad @ changed, None, None, torch.diagonal(square).clone()


def square_linear(x: Tensor, weight: Tensor, indices: Tensor, values: Tensor) -> Tensor:
    """A linear layer whose sparse gradient is the diagonal of a product of ``k`` by ``k``.

    Args:
        x: ``[T, n]``.
        weight: ``[m, n]``.
        indices: flat positions ``[k]``.
        values: ``[k]``.
    """
    out: Tensor = _Square.apply(x, weight, indices, values)
    return out


_LINEAR: Mapping[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "autograd": lambda x, weight, indices, values: F.linear(x, scattered(weight, indices, values)),
    "square": square_linear,
    "mmalign": lambda x, weight, indices, values: sparse_linear(x, weight, None, indices, values),
}


@dataclass(frozen=True)
class SparseSetting:
    """One linear layer with picks and a batch of tokens; calling it builds the named variants.

    Args:
        tall: outputs.
        wide: inputs.
        picks: entries that train.
        tokens: rows of the batch.
    """

    tall: int
    wide: int
    picks: int
    tokens: int

    def __call__(self, names: Sequence[str]) -> Mapping[str, Step]:
        """One forward and backward pass per name, over the same numbers."""
        draw = torch.Generator().manual_seed(0)
        weight = torch.randn(self.tall, self.wide, generator=draw) / self.wide**0.5
        x = torch.randn(self.tokens, self.wide, generator=draw)
        grad = torch.randn(self.tokens, self.tall, generator=draw)
        indices = torch.randperm(self.tall * self.wide, generator=draw)[: self.picks].sort().values
        return {name: _step(_LINEAR[name], x, weight, indices, grad) for name in names}


def _step(
    linear: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
    x: Tensor,
    weight: Tensor,
    indices: Tensor,
    grad: Tensor,
) -> Step:
    inputs, values = x.clone().requires_grad_(True), torch.full((len(indices),), 0.1, requires_grad=True)
    found: dict[str, Tensor] = {}

    def run(_: Any) -> None:
        out = linear(inputs, weight, indices, values)
        gradients = torch.autograd.grad(out, (inputs, values), grad)
        found.update(zip(("input_gradient", "value_gradient"), gradients, strict=True), output=out.detach())

    return Step(run=run, outcome=lambda: dict(found))


def _case(name: str, tall: int, wide: int, picks: int, tokens: int, *, quick: bool = False) -> Case:
    ratios = [Comparison("square", "mmalign"), Comparison("autograd", "mmalign")]
    if not quick:
        ratios += [
            Comparison("square", "mmalign", memory=True),
            Comparison("autograd", "mmalign", memory=True),
        ]
    text = f"{tall} x {wide}, {picks} picks, {tokens} tokens"
    setting = SparseSetting(tall, wide, picks, tokens)
    return Case(name, text, VARIANTS, setting, tuple(ratios), tolerance=1e-4, rounds=5, quick=quick)


BENCH = Bench(
    name="spt_backward",
    title="Backward pass of sparse weights in a linear layer",
    cases=(
        _case("quick", 192, 192, 500, 400, quick=True),
        _case("picks-8000", 768, 768, 8000, 1576),
        _case("picks-1000", 768, 768, 1000, 1576),
        _case("mlp-8000", 3072, 768, 8000, 1576),
    ),
    headline=("picks-8000", "square / mmalign"),
    quick_headline=("quick", "square / mmalign"),
    needs={"torch": "pip install torch"},
    notes=("one forward and backward pass of the layer; the weight itself has no gradient",),
)
