"""The sparse linear layer: equal to the dense one, small in memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from mmalign.tuners.sparse import scattered, sparse_linear, sparse_weight_gradient

torch.set_num_threads(1)


class Peak(TorchDispatchMode):
    """Most bytes in storages that were made inside and were alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, int] = {}
        self.peak = 0
        self.older: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in torch.utils._pytree.tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self.live:
                self.older.add(tensor.untyped_storage()._cdata)
        out = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._watch(tensor)
        return out

    def _watch(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.live or key in self.older:
            return
        self.live[key] = storage.nbytes()
        self.peak = max(self.peak, sum(self.live.values()))
        weakref.finalize(storage, self.live.pop, key, None)


def case(m: int, n: int, k: int, tokens: int = 50, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    picks = torch.randperm(m * n, generator=draw)[:k].sort().values
    made = {
        "x": (2, tokens // 2, n),
        "weight": (m, n),
        "bias": (m,),
        "values": (k,),
        "grad": (2, tokens // 2, m),
    }
    return {
        "indices": picks,
        **{key: torch.randn(*shape, generator=draw, dtype=dtype) for key, shape in made.items()},
    }


def gradients(run: Callable[[Tensor, Tensor, Tensor], Tensor], c: dict[str, Tensor]) -> tuple[Tensor, ...]:
    x, bias, values = (c[key].clone().requires_grad_(True) for key in ("x", "bias", "values"))
    out = run(x, bias, values)
    return (out, *torch.autograd.grad(out, (x, bias, values), c["grad"]))


@pytest.mark.parametrize(
    ("m", "n", "k"), [(30, 20, 5), (30, 20, 400), (1100, 700, 9000), (1100, 700, 3000), (7, 3, 21)]
)
def test_equals_the_dense_layer(m: int, n: int, k: int) -> None:
    c = case(m, n, k)
    got = gradients(lambda x, b, v: sparse_linear(x, c["weight"], b, c["indices"], v), c)
    want = gradients(lambda x, b, v: F.linear(x, scattered(c["weight"], c["indices"], v), b), c)
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_gradcheck() -> None:
    c = case(6, 5, 9, tokens=4)
    x, bias, values = (c[key].requires_grad_(True) for key in ("x", "bias", "values"))
    assert torch.autograd.gradcheck(
        lambda x, b, v: sparse_linear(x, c["weight"], b, c["indices"], v), (x, bias, values)
    )


def test_without_bias_and_in_half_precision() -> None:
    c = case(40, 30, 60, dtype=torch.float32)
    plain = sparse_linear(c["x"], c["weight"], None, c["indices"], c["values"])
    torch.testing.assert_close(plain, F.linear(c["x"], scattered(c["weight"], c["indices"], c["values"])))
    half = sparse_linear(c["x"].bfloat16(), c["weight"].bfloat16(), None, c["indices"], c["values"])
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), plain, rtol=0.05, atol=0.3)


@pytest.mark.parametrize(("m", "n"), [(768, 768), (3072, 768), (768, 3072)])
def test_backward_at_8000_picks_needs_less_than_ten_megabytes(m: int, n: int) -> None:
    c = case(m, n, 8000, tokens=394, dtype=torch.float32)
    x, grad = c["x"].reshape(-1, n), c["grad"].reshape(-1, m)
    with Peak() as meter:
        sparse_weight_gradient(x, grad, c["indices"])
    assert meter.peak < 10e6
    values = c["values"].requires_grad_(True)
    out = sparse_linear(x.requires_grad_(True), c["weight"], None, c["indices"], values)
    with Peak() as meter:
        torch.autograd.grad(out, (x, values), grad)
    results = x.numel() * 4 + values.numel() * 4
    assert meter.peak - results < 10e6, (
        f"{(meter.peak - results) / 1e6:.1f} MB beside the gradients themselves"
    )


def test_the_meter_sees_the_square_of_picks() -> None:
    c = case(768, 768, 2000, tokens=394, dtype=torch.float32)
    x, grad, rows, cols = (
        c["x"].reshape(-1, 768),
        c["grad"].reshape(-1, 768),
        c["indices"] // 768,
        c["indices"] % 768,
    )
    with Peak() as meter:
        square = torch.diagonal(grad[:, rows].T @ x[:, cols])
    assert meter.peak >= 4 * 2000**2
    torch.testing.assert_close(square, sparse_weight_gradient(x, grad, c["indices"]), rtol=1e-3, atol=1e-3)
