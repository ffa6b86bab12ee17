"""Muon in float32 for matrices, AdamW for the rest: few steps train the drawer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["MuonAdamW", "orthogonalised"]

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalised(matrices: Tensor, steps: int = 5) -> Tensor:
    """Matrices ``[K, N, M]`` with all singular values moved near 1 by Newton-Schulz iterations.

    *Reference* Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".  *Differs*: float32,
    because bfloat16 products are slow on most processors.
    """
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.transpose(1, 2) if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.transpose(1, 2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.transpose(1, 2) if tall else x


class MuonAdamW(torch.optim.Optimizer):
    """Two groups: matrices of the blocks by Muon with Nesterov momentum, everything else by AdamW.

    Args:
        matrices: two-dimensional weights.
        others: all other parameters.
        lr: step size of Muon; a matrix moves by ``lr * max(1, rows / columns)^0.5`` times an orthogonal matrix.
        lr_others: step size of AdamW (betas 0.9 and 0.98, no weight decay).
        momentum: of Muon.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        others: Iterable[nn.Parameter],
        *,
        lr: float,
        lr_others: float,
        momentum: float = 0.95,
    ) -> None:
        groups = [
            {"params": list(matrices), "lr": lr, "muon": True},
            {"params": list(others), "lr": lr_others, "muon": False},
        ]
        super().__init__(groups, {"momentum": momentum, "betas": (0.9, 0.98), "eps": 1e-8})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Take one step from the gradients; ``closure`` is not used."""
        for group in self.param_groups:
            (self._muon if group["muon"] else self._adam)(group)

    def _muon(self, group: dict[str, Any]) -> None:
        by_shape: dict[tuple[int, ...], list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
        for p in group["params"]:
            if p.grad is not None:
                by_shape[tuple(p.shape)].append((p, p.grad))
        for (rows, columns), params in by_shape.items():
            directions = []
            for p, grad in params:
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                state["momentum"].lerp_(grad, 1 - group["momentum"])
                directions.append(grad.lerp(state["momentum"], group["momentum"]))
            moves = orthogonalised(torch.stack(directions))
            for (p, _), move in zip(params, moves, strict=True):
                p.add_(move, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)

    def _adam(self, group: dict[str, Any]) -> None:
        first, second = group["betas"]
        for p in group["params"]:
            if p.grad is None:
                continue
            state = self.state[p]
            if not state:
                state["step"] = torch.zeros(())
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
            state["step"] += 1
            state["exp_avg"].lerp_(p.grad, 1 - first)
            state["exp_avg_sq"].mul_(second).addcmul_(p.grad, p.grad, value=1 - second)
            step = float(state["step"])
            scale = (state["exp_avg_sq"] / (1 - second**step)).sqrt_().add_(group["eps"])
            p.addcdiv_(state["exp_avg"], scale, value=-group["lr"] / (1 - first**step))
