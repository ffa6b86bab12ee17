"""Policy losses: what is constant, what the defaults are, and the limits of the ranges."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mmalign.objectives.policy import entropy_bonus, grpo_loss, ppo_policy_loss, ppo_value_loss, rloo_loss


def one(*values: float) -> Tensor:
    """A ``[1, T]`` float64 row."""
    return torch.tensor([list(values)], dtype=torch.float64)


def every(x: Tensor) -> Tensor:
    return torch.ones_like(x, dtype=torch.bool)


def draw(seed: int, batch: int = 4, steps: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """logp (leaf), logp_old, logp_ref, advantages and a left-aligned mask; many ratios get clipped."""
    generator = torch.Generator().manual_seed(seed)
    base, noise, other, advantages = torch.randn(4, batch, steps, generator=generator, dtype=torch.float64)
    logp = (-base.abs() - 0.5).requires_grad_()
    mask = torch.arange(steps) < torch.randint(1, steps + 1, (batch, 1), generator=generator)
    return logp, logp.detach() + 0.3 * noise, logp.detach() + 0.5 * other, advantages, mask


def test_limits_of_the_ranges() -> None:
    logp, old, _, advantages, mask = draw(10)
    ppo_policy_loss(logp, old, advantages, mask, 0.0)
    frozen, _ = ppo_value_loss(logp, old, advantages, mask, 0.0)
    at_old = masked_half_square(old, advantages, mask)
    assert frozen.item() >= at_old
    with pytest.raises(ValueError, match="dual_clip must exceed"):
        ppo_policy_loss(logp, old, advantages, mask, 0.25, dual_clip=1.25)
    with pytest.raises(ValueError, match="cliprange_high >= 0"):
        ppo_policy_loss(logp, old, advantages, mask, 0.2, -0.1)
    with pytest.raises(ValueError, match="0 <= cliprange"):
        ppo_policy_loss(logp, old, advantages, mask, -0.1)


def masked_half_square(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """Half the mean squared error on real steps, by indexing."""
    return 0.5 * (values[mask] - returns[mask]).square().mean().item()


def test_rloo_and_value_targets_are_constants() -> None:
    logp, old, returns, advantages, mask = draw(11)
    for tensor in (old, returns, advantages):
        tensor.requires_grad_()
    value, metrics = ppo_value_loss(logp, old, returns, mask)
    sequence, _ = rloo_loss(logp, old, advantages[:, 0], mask)
    (value + sequence).backward()
    assert old.grad is None and returns.grad is None and advantages.grad is None
    assert not any(metric.requires_grad for metric in metrics.values())


def test_metrics_carry_no_gradient() -> None:
    logp, old, ref, advantages, mask = draw(12)
    for metrics in (
        ppo_policy_loss(logp, old, advantages, mask)[1],
        grpo_loss(logp, old, advantages, mask, beta=0.1, logp_ref=ref)[1],
        rloo_loss(logp, old, advantages[:, 0], mask)[1],
        entropy_bonus(logp, mask, 0.1)[1],
    ):
        assert not any(metric.requires_grad for metric in metrics.values())


def test_a_step_without_advantage_is_not_clipped() -> None:
    ratio = one(0.5, 1.5)
    _, metrics = ppo_policy_loss(ratio.log(), torch.zeros_like(ratio), torch.zeros_like(ratio), every(ratio))
    assert metrics["clip_ratio"].item() == 0.0


def test_rloo_off_policy_uses_the_difference_of_sums() -> None:
    # sums -1 and -1.1: ratio e^.1, inside the clip; A = 3: -3 e^.1 and the same gradient in every real step
    logp, old = one(-0.4, -0.6).requires_grad_(), one(-0.5, -0.6)
    loss, _ = rloo_loss(logp, old, torch.tensor([3.0]).double(), every(logp))
    assert loss.item() == pytest.approx(-3 * math.exp(0.1), abs=1e-14)
    expected = [-3 * math.exp(0.1)] * 2
    assert torch.autograd.grad(loss, logp)[0][0].tolist() == pytest.approx(expected, abs=1e-14)


def test_grpo_off_policy_golden() -> None:
    # ratios e^.1 and e^-.1, A = 2: -2 (e^.1 + e^-.1) / 2
    loss, _ = grpo_loss(one(-0.4, -0.6), one(-0.5, -0.5), torch.tensor([2.0]).double(), every(one(0.0, 0.0)))
    assert loss.item() == pytest.approx(-(math.exp(0.1) + math.exp(-0.1)), abs=1e-14)


def test_default_clips_are_one_fifth() -> None:
    logp, old, _, advantages, mask = draw(13)
    assert torch.equal(
        ppo_policy_loss(logp, old, advantages, mask)[0], ppo_policy_loss(logp, old, advantages, mask, 0.2)[0]
    )
    assert torch.equal(
        ppo_value_loss(logp, old, advantages, mask)[0], ppo_value_loss(logp, old, advantages, mask, 0.2)[0]
    )
