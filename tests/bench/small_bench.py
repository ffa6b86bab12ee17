"""Benchmarks over one small matrix product, for tests of the machinery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmalign.bench.definition import Bench, Case, Comparison, Step

SIZE = 256


class Product:
    """``mean((x W)^2)`` and its gradient, computed ``repeat`` times, with an error of ``wrong`` in the loss."""

    def __init__(self, repeat: int, wrong: float = 0.0) -> None:
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.randn(SIZE, SIZE, generator=generator, requires_grad=True)
        self.data = torch.randn(SIZE, SIZE, generator=generator)
        self.repeat, self.wrong = repeat, wrong
        self.loss = torch.zeros(())

    def run(self, data: Tensor) -> None:
        for _ in range(self.repeat):
            self.weight.grad = None
            loss = (data @ self.weight).square().mean() * (1 + self.wrong)
            loss.backward()
        self.loss = loss.detach()

    def outcome(self) -> Mapping[str, Tensor]:
        assert self.weight.grad is not None
        return {"loss": self.loss, "gradient": self.weight.grad}

    def step(self) -> Step:
        return Step(self.run, self.outcome, prepare=lambda: self.data)


def build(names: Sequence[str], wrong: float = 0.0) -> Mapping[str, Step]:
    """``slow`` does the work eight times."""
    made = {"slow": Product(8), "quick": Product(1, wrong)}
    return {name: made[name].step() for name in names}


def wrong(names: Sequence[str]) -> Mapping[str, Step]:
    """``quick`` is off by 1e-3."""
    return build(names, 1e-3)


def case(builder: Any = build, *, quick: bool = True, memory: bool = False) -> Case:
    ratios = [Comparison("slow", "quick", 2.0), Comparison("quick", "slow")]
    ratios += [Comparison("slow", "quick", memory=True)] if memory else []
    texts = {"slow": "eight times", "quick": "once"}
    return Case("product", "a matrix product", texts, builder, tuple(ratios), rounds=5, quick=quick)


def bench(builder: Any = build, **changes: Any) -> Bench:
    headline = ("product", "slow / quick")
    cases = (case(builder, quick=True), case(builder, quick=False, memory=True))
    return Bench(
        **{
            **dict(
                name="small", title="t", cases=cases, headline=headline, quick_headline=headline, needs={}
            ),
            **changes,
        }
    )


BENCH = bench()
