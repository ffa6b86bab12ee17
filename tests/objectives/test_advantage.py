"""Advantages: a plain Python oracle for GAE, identities 4, 5 and 15, and the group baselines."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmalign.objectives.advantage import (
    dense_group_advantage,
    frac_zero_std,
    gae,
    group_advantage,
    reward_to_go,
    rloo_advantage,
)
from mmalign.objectives.rewards import sequence_placement


def draw(seed: int, batch: int = 5, steps: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards, values and a left-aligned mask of random lengths (0 allowed)."""
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn(batch, steps, generator=generator, dtype=torch.float64)
    values = torch.randn(batch, steps, generator=generator, dtype=torch.float64)
    lengths = torch.randint(0, steps + 1, (batch, 1), generator=generator)
    return rewards, values, torch.arange(steps) < lengths


def gae_by_definition(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> np.ndarray:
    """Sum over l of (gamma lam)^l delta_{t+l} without recursion, on the real steps of each row."""
    out = np.zeros(rewards.shape)
    for b in range(rewards.shape[0]):
        real = [t for t in range(rewards.shape[1]) if bool(mask[b, t])]
        r, v = [rewards[b, t].item() for t in real], [values[b, t].item() for t in real]
        delta = [r[i] + gamma * (v[i + 1] if i + 1 < len(v) else 0.0) - v[i] for i in range(len(v))]
        for i, t in enumerate(real):
            out[b, t] = sum((gamma * lam) ** (j - i) * delta[j] for j in range(i, len(v)))
    return out


def test_gae_golden() -> None:
    # r = (1, 0, 2), V = (.5, 1, 1.5), gamma .9, lam .5, the third step is the last
    # deltas: 1 + .9*1 - .5 = 1.4; 0 + .9*1.5 - 1 = .35; 2 - 1.5 = .5
    # A3 = .5; A2 = .35 + .45*.5 = .575; A1 = 1.4 + .45*.575 = 1.65875
    rewards = torch.tensor([[1.0, 0.0, 2.0, 99.0]], dtype=torch.float64)
    values = torch.tensor([[0.5, 1.0, 1.5, 99.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True, True, False]])
    advantages, returns = gae(rewards, values, mask, 0.9, 0.5)
    assert advantages[0].tolist() == pytest.approx([1.65875, 0.575, 0.5, 0.0], abs=1e-14)
    assert returns[0].tolist() == pytest.approx([2.15875, 1.575, 2.0, 0.0], abs=1e-14)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), gamma=st.floats(0, 1), lam=st.floats(0, 1))
def test_gae_equals_the_definition(seed: int, gamma: float, lam: float) -> None:
    rewards, values, mask = draw(seed)
    advantages, returns = gae(rewards, values, mask, gamma, lam)
    expected = gae_by_definition(rewards, values, mask, gamma, lam)
    assert np.abs(advantages.numpy() - expected).max() < 1e-12
    assert torch.allclose(returns, advantages + values * mask, atol=1e-14)


def test_gae_skips_holes_in_the_mask() -> None:
    rewards, values, mask = draw(1)
    holes = mask & (torch.rand(mask.shape, generator=torch.Generator().manual_seed(4)) > 0.4)
    advantages, _ = gae(rewards, values, holes, 0.9, 0.8)
    assert np.abs(advantages.numpy() - gae_by_definition(rewards, values, holes, 0.9, 0.8)).max() < 1e-12


def test_identity_5_limits_of_lambda() -> None:
    rewards, values, mask = draw(3)
    full = torch.ones_like(mask)
    monte_carlo, _ = gae(rewards, values, full, 1.0, 1.0)
    assert torch.allclose(monte_carlo, rewards.flip(1).cumsum(1).flip(1) - values, atol=1e-13)
    temporal, _ = gae(rewards, values, full, 0.9, 0.0)
    following = torch.cat([values[:, 1:], torch.zeros(5, 1, dtype=torch.float64)], 1)
    assert torch.allclose(temporal, rewards + 0.9 * following - values, atol=1e-14)


def test_identity_5_zero_critic_is_reinforce() -> None:
    rewards, values, mask = draw(7)
    advantages, _ = gae(rewards, torch.zeros_like(values), mask, 1.0, 1.0)
    clean = rewards * mask
    assert torch.allclose(advantages, clean.flip(1).cumsum(1).flip(1) * mask, atol=1e-13)
    assert torch.equal(advantages, reward_to_go(rewards, mask))


@pytest.mark.parametrize("garbage", [math.nan, math.inf, -1e30])
def test_identity_5_garbage_in_padding(garbage: float) -> None:
    rewards, values, mask = draw(11)
    clean = gae(rewards, values, mask, 0.97, 0.9)
    dirty = gae(rewards.masked_fill(~mask, garbage), values.masked_fill(~mask, garbage), mask, 0.97, 0.9)
    assert torch.equal(clean[0], dirty[0]) and torch.equal(clean[1], dirty[1])


def test_bootstrap_continues_a_cut_trajectory() -> None:
    # cutting after 3 of 6 steps and bootstrapping with V_4 must give the TD errors of the long trajectory
    generator = torch.Generator().manual_seed(2)
    rewards, values = torch.randn(2, 4, 6, generator=generator, dtype=torch.float64)
    mask = torch.ones(4, 6, dtype=torch.bool)
    whole, _ = gae(rewards, values, mask, 0.9, 0.0)
    cut, _ = gae(rewards[:, :3], values[:, :3], mask[:, :3], 0.9, 0.0, bootstrap=values[:, 3])
    assert torch.allclose(cut, whole[:, :3], atol=1e-14)


def test_gae_carries_no_gradient_and_refuses_nonsense() -> None:
    rewards, values, mask = draw(0)
    assert not gae(rewards, values.requires_grad_(), mask)[0].requires_grad
    with pytest.raises(ValueError, match="gamma and lam"):
        gae(rewards, values, mask, 1.1)
    with pytest.raises(ValueError, match="values has shape"):
        gae(rewards, values[:, :2], mask)


def test_reward_to_go_discounts() -> None:
    # (1, 2, 3) at gamma .5: 3; 2 + 1.5 = 3.5; 1 + 1.75 = 2.75
    rewards, mask = torch.tensor([[1.0, 2.0, 3.0]]), torch.ones(1, 3, dtype=torch.bool)
    assert reward_to_go(rewards, mask, 0.5)[0].tolist() == [2.75, 3.5, 3.0]


def test_identity_4_four_of_eight() -> None:
    # std (unbiased) of four 1 and four 0 is sqrt(2/7) = .53452: .5 / (.53452 + .0001) = .93524
    rewards = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    advantage = group_advantage(rewards, torch.zeros(8, dtype=torch.long))
    assert advantage.tolist() == pytest.approx(
        [0.5 / (math.sqrt(2 / 7) + 1e-4)] * 4 + [-0.5 / (math.sqrt(2 / 7) + 1e-4)] * 4
    )
    assert advantage[0].item() == pytest.approx(0.935, abs=5e-4)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), shift=st.floats(-10, 10), scale=st.floats(0.1, 10))
def test_identity_4_grpo_is_invariant_when_eps_scales(seed: int, shift: float, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn(12, generator=generator, dtype=torch.float64)
    group = torch.arange(12) // 4
    for how in ("group", "batch"):
        base = group_advantage(rewards, group, how, 1e-4)  # type: ignore[arg-type]
        moved = group_advantage(scale * rewards + shift, group, how, scale * 1e-4)  # type: ignore[arg-type]
        assert torch.allclose(base, moved, atol=1e-9)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.integers(2, 6))
def test_identity_4_rloo(seed: int, size: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn(3 * size, generator=generator, dtype=torch.float64)
    order = torch.randperm(3 * size, generator=generator)
    group = (torch.arange(3 * size) % 3)[order] * 10 - 7
    advantage = rloo_advantage(rewards, group)
    for i in range(3 * size):
        others = [rewards[j].item() for j in range(3 * size) if group[j] == group[i] and j != i]
        assert advantage[i].item() == pytest.approx(rewards[i].item() - sum(others) / len(others), abs=1e-12)
    centred = group_advantage(rewards, group, "none")
    assert torch.allclose(advantage, size / (size - 1) * centred, atol=1e-13)


def test_zero_variance_groups_are_exactly_zero() -> None:
    # .1 in float32 has a rounding error that the eps of 1e-4 would blow up to 1e-4 and whitening to ~1
    rewards = torch.tensor([0.1, 0.1, 0.1, 1.0, 2.0, 3.0, 0.7])
    group = torch.tensor([0, 0, 0, 5, 5, 5, 9])
    for advantage in (
        group_advantage(rewards, group),
        group_advantage(rewards, group, "batch"),
        group_advantage(rewards, group, "none"),
        rloo_advantage(rewards, group),
    ):
        assert advantage[[0, 1, 2, 6]].tolist() == [0.0] * 4
        assert advantage[3].item() < 0 < advantage[5].item()
    assert frac_zero_std(rewards, group).item() == pytest.approx(2 / 3)


def test_scales_golden() -> None:
    # groups (0, 2) and (0, 4): unbiased stds sqrt 2 and 2 sqrt 2; all four: sqrt(11/3) = 1.914854
    rewards = torch.tensor([0.0, 2.0, 0.0, 4.0], dtype=torch.float64)
    group = torch.tensor([0, 0, 1, 1])
    assert group_advantage(rewards, group, "none").tolist() == [-1.0, 1.0, -2.0, 2.0]
    by_group = group_advantage(rewards, group, "group", 0.0).tolist()
    assert by_group == pytest.approx([-(0.5**0.5), 0.5**0.5, -(0.5**0.5), 0.5**0.5])
    by_batch = group_advantage(rewards, group, "batch", 0.0).tolist()
    assert by_batch == pytest.approx([x / math.sqrt(11 / 3) for x in (-1, 1, -2, 2)])


def test_group_refusals() -> None:
    rewards, group = torch.tensor([1.0, math.nan]), torch.zeros(2, dtype=torch.long)
    with pytest.raises(ValueError, match=r"samples \[1\]"):
        group_advantage(rewards, group)
    with pytest.raises(ValueError, match="unknown scale"):
        group_advantage(torch.ones(2), group, "std")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="baseline"):
        dense_group_advantage(torch.ones(2, 2), torch.ones(2, 2, dtype=torch.bool), group, baseline="x")  # type: ignore[arg-type]


def test_dense_golden() -> None:
    # returns 3 and 1 (the 9 is padding), mean 2. To go: (3, 2, -) and (1, 1, 1).
    rewards = torch.tensor([[1.0, 2.0, 9.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    group = torch.tensor([4, 4])
    assert dense_group_advantage(rewards, mask, group).tolist() == [[1.0, 0.0, 0.0], [-1.0, -1.0, -1.0]]
    # step baseline: means over the group at each step (2, 1.5, .5)
    by_step = dense_group_advantage(rewards, mask, group, baseline="step")
    assert by_step.tolist() == [[1.0, 0.5, 0.0], [-1.0, -0.5, 0.5]]
    scaled = dense_group_advantage(rewards, mask, group, "group", eps=0.0)  # std of (3, 1) is sqrt 2
    assert scaled[0, 0].item() == pytest.approx(1 / math.sqrt(2))


def test_dense_reduces_to_grpo_for_a_terminal_reward() -> None:
    rewards, _, mask = draw(13, batch=8)
    group = torch.arange(8) // 4
    for scale in ("none", "group", "batch"):
        dense = dense_group_advantage(sequence_placement(rewards, mask), mask, group, scale)  # type: ignore[arg-type]
        per_sequence = group_advantage((rewards * mask).sum(1), group, scale)  # type: ignore[arg-type]
        assert torch.allclose(dense, per_sequence[:, None] * mask, atol=1e-12)


def test_identity_15_placement_keeps_the_return() -> None:
    rewards, _, mask = draw(17)
    moved = sequence_placement(rewards, mask)
    assert torch.allclose(reward_to_go(moved, mask)[:, 0], reward_to_go(rewards, mask)[:, 0], atol=1e-13)


def test_dense_zero_variance_group_with_group_scale_is_zero() -> None:
    rewards, mask = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.ones(2, 2, dtype=torch.bool)
    group = torch.zeros(2, dtype=torch.long)
    assert dense_group_advantage(rewards, mask, group, "group").abs().max().item() == 0.0
    assert dense_group_advantage(rewards, mask, group).tolist() == [[0.0, -1.0], [0.0, 0.0]]


def test_dense_ignores_garbage_in_padding() -> None:
    rewards, _, mask = draw(19, batch=6)
    group = torch.arange(6) // 3
    dirty = rewards.masked_fill(~mask, math.nan)
    for baseline in ("sequence", "step"):
        a = dense_group_advantage(rewards, mask, group, baseline=baseline)  # type: ignore[arg-type]
        assert torch.equal(a, dense_group_advantage(dirty, mask, group, baseline=baseline))  # type: ignore[arg-type]


def test_both_dense_baselines_are_unbiased_and_the_step_one_is_quieter() -> None:
    # Two steps, two outcomes each, independent: step 1 pays 1 for outcome 0, step 2 pays 2. Policy p = 1/2.
    # Score of outcome a is (1[a=0] - 1/2). True gradient per step: Cov(reward, score) = (.25, .5).
    # Groups of 2: the sample itself is in the baseline, so the expectation is (G-1)/G = 1/2 of it.
    outcomes = torch.tensor([[a, b, c, d] for a in (0, 1) for b in (0, 1) for c in (0, 1) for d in (0, 1)])
    results = {}
    for baseline in ("sequence", "step"):
        rows = []
        for a, b, c, d in outcomes.tolist():
            action = torch.tensor([[a, b], [c, d]])
            rewards = (action == 0).double() * torch.tensor([1.0, 2.0]).double()
            mask, group = torch.ones(2, 2, dtype=torch.bool), torch.zeros(2, dtype=torch.long)
            advantage = dense_group_advantage(rewards, mask, group, baseline=baseline)  # type: ignore[arg-type]
            rows.append((((action == 0).double() - 0.5) * advantage).mean(0))
        samples = torch.stack(rows)
        results[baseline] = samples.var(0, correction=0).sum().item()
        assert samples.mean(0).tolist() == pytest.approx([0.125, 0.25], abs=1e-14)
    assert results["step"] < results["sequence"]


def test_rloo_golden() -> None:
    # 1, 2, 6: against the mean of the others 4, 3.5, 1.5
    advantage = rloo_advantage(torch.tensor([1.0, 2.0, 6.0]), torch.zeros(3, dtype=torch.long))
    assert advantage.tolist() == pytest.approx([-3.0, -1.5, 4.5])
    assert rloo_advantage(torch.tensor([1.0, 2.0]), torch.tensor([3, 3])).tolist() == [-1.0, 1.0]


def test_eps_is_added_to_the_std() -> None:
    # rewards 0, 2: std sqrt 2, advantage 1 / (sqrt 2 + 1)
    rewards, group = torch.tensor([0.0, 2.0], dtype=torch.float64), torch.zeros(2, dtype=torch.long)
    for scale in ("group", "batch"):
        advantage = group_advantage(rewards, group, scale, eps=1.0)  # type: ignore[arg-type]
        assert advantage[1].item() == pytest.approx(1 / (math.sqrt(2) + 1), abs=1e-15)
    assert group_advantage(rewards[:1], group[:1], "batch").tolist() == [0.0]


def test_gae_defaults_are_gamma_one_and_lambda_095() -> None:
    rewards, values, mask = draw(23)
    assert torch.equal(gae(rewards, values, mask)[0], gae(rewards, values, mask, 1.0, 0.95)[0])
