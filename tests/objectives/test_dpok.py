"""DPOK as a setting of the clipped loss with the exact KL, and where its released loss has no gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mmalign.objectives.kl import gaussian_kl
from mmalign.objectives.policy import ppo_policy_loss

B, T, D, CLIP, BETA = 4, 3, 6, 0.2, 0.3


def drawn() -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    rand = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    ref, std = rand(B, T, D), torch.rand(B, T, generator=g, dtype=torch.float64) + 0.5
    old = ref + 0.1 * rand(B, T, D)
    return {
        "ref": ref, "old": old, "mean": old + 0.15 * rand(B, T, D), "std": std, "steps": old + std[..., None] * rand(B, T, D),
        "advantages": rand(B), "mask": torch.arange(T) < torch.tensor([[3], [2], [3], [1]]),
    }  # fmt: skip


def logp(mean: Tensor, d: dict[str, Tensor]) -> Tensor:
    dense = torch.distributions.Normal(mean, d["std"][..., None]).log_prob(d["steps"])
    return dense.mean(-1)


def ours(mean: Tensor, d: dict[str, Tensor]) -> Tensor:
    mask, every = d["mask"], d["advantages"][:, None].expand(B, T)
    value, _ = ppo_policy_loss(logp(mean, d), logp(d["old"], d), every, mask, CLIP, aggregation="bnpo")
    return value + BETA * gaussian_kl(mean, d["ref"], d["std"], mask).sum() / mask.sum()


def test_loss_is_the_loop() -> None:
    d = drawn()
    total, n = 0.0, 0
    for b in range(B):
        for t in range(T):
            if not d["mask"][b, t]:
                continue
            n += 1
            std, new, old, ref, x = (d[k][b, t].numpy() for k in ("std", "mean", "old", "ref", "steps"))
            ratio = np.exp(np.mean(((x - old) ** 2 - (x - new) ** 2) / (2 * std**2)))
            advantage = float(d["advantages"][b])
            total += -min(ratio * advantage, np.clip(ratio, 1 - CLIP, 1 + CLIP) * advantage)
            total += BETA * np.sum((new - ref) ** 2) / (2 * std**2)
    assert float(ours(d["mean"], d)) == pytest.approx(total / n, abs=1e-12)
    mean = d["mean"].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda m: ours(m, d), (mean,))


def test_the_released_loss_cannot_undo_a_bad_step_and_ours_can() -> None:
    """Outside the interval a clamped ratio has gradient 0 for either sign; the minimum leaves the way back open."""
    mask = torch.ones(1, 1, dtype=torch.bool)
    for advantage, log_ratio, way_back in (
        (-1.0, np.log(1.5), True),
        (1.0, np.log(0.5), True),
        (1.0, np.log(1.5), False),
    ):
        x = torch.tensor([[log_ratio]], dtype=torch.float64, requires_grad=True)
        released = -(x.exp().clamp(1 - CLIP, 1 + CLIP) * advantage).mean()
        assert float(torch.autograd.grad(released, x)[0]) == 0.0
        loss, _ = ppo_policy_loss(
            x, torch.zeros_like(x), torch.full((1, 1), advantage, dtype=torch.float64), mask, CLIP
        )
        slope = float(torch.autograd.grad(loss, x)[0])
        assert (slope == pytest.approx(-advantage * np.exp(log_ratio))) if way_back else slope == 0.0


def test_a_larger_kl_weight_ends_nearer_to_the_reference_and_gains_less() -> None:
    """On one Gaussian step with reward x the optimum is known: mean = ref + std^2 / beta."""
    ends = []
    for beta in (0.5, 2.0, 8.0):
        mean = torch.zeros(1, 1, 1, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.Adam([mean], lr=0.02)
        mask, std = torch.ones(1, 1, dtype=torch.bool), torch.full((1, 1), 0.7, dtype=torch.float64)
        for _ in range(600):
            optimizer.zero_grad()
            (-mean.sum() + beta * gaussian_kl(mean, torch.zeros_like(mean), std, mask).sum()).backward()
            optimizer.step()
        ends.append(float(mean.detach()))
    assert ends == pytest.approx([0.49 / beta for beta in (0.5, 2.0, 8.0)], abs=0.01)
