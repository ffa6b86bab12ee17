"""Targets, CQL and Cal-QL, SAC and IQL against numpy loops, golden numbers and finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from mmalign.objectives.value_based import (
    advantage_weights,
    conservative_penalty,
    expectile_loss,
    monte_carlo_returns,
    rewarded_cloning_loss,
    sac_actor_loss,
    td_loss,
    td_target,
    temperature_loss,
)


def doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def bools(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.bool)


def test_a_target_looks_beyond_a_time_limit_and_not_beyond_the_end() -> None:
    target = td_target(doubles(1, 1, 0.5), doubles(10, 10, -2), bools(0, 1, 0), 0.9)
    assert target.tolist() == pytest.approx([10.0, 1.0, -1.3])


def test_a_value_behind_the_end_may_be_anything() -> None:
    target = td_target(doubles(1, 2), doubles(math.nan, 3), bools(1, 0), 0.5)
    assert target.tolist() == [1.0, 3.5]


def test_the_target_carries_no_gradient() -> None:
    value = doubles(1, 2).requires_grad_()
    assert not td_target(doubles(0, 0), value, bools(0, 0), 0.9).requires_grad


def test_td_loss_sums_over_critics_and_means_over_transitions() -> None:
    q = torch.tensor([[1.0, 2.0], [0.0, 4.0]], dtype=torch.float64, requires_grad=True)
    loss = td_loss(q, doubles(2, 2))
    assert float(loss.detach()) == pytest.approx(0.5 * 0.5 + 0.5 * (4 + 4) / 2)
    loss.backward()
    assert q.grad is not None and q.grad.tolist() == [[-0.5, 0.0], [-1.0, 1.0]]


def returns_by_hand(
    reward: list[float], terminal: list[int], ends: list[int], gamma: float, tail: float
) -> list[float]:
    out, start = [0.0] * len(reward), 0
    for end in (i for i, flag in enumerate(ends) if flag):
        for t in range(start, end + 1):
            total = sum(gamma ** (k - t) * reward[k] for k in range(t, end + 1))
            out[t] = total + (0.0 if terminal[end] else gamma ** (end + 1 - t) * tail)
        start = end + 1
    return out


@pytest.mark.parametrize("tail", [0.0, -7.0])
def test_returns_against_a_double_loop(tail: float) -> None:
    rng = np.random.default_rng(0)
    reward = rng.normal(size=12).tolist()
    terminal, ends = [0] * 12, [0] * 12
    for k in (3, 8):
        ends[k] = 1
    ends[11], terminal[8] = 1, 1
    found = monte_carlo_returns(doubles(*reward), bools(*terminal), bools(*ends), 0.9, tail)
    assert found.tolist() == pytest.approx(returns_by_hand(reward, terminal, ends, 0.9, tail))


def test_returns_are_those_of_the_rewards_the_critic_sees() -> None:
    """Scaling and shifting first is not scaling and shifting the return: the shift is paid every step."""
    raw, none, last = doubles(0, 0, 1), bools(0, 0, 1), bools(0, 0, 1)
    seen = monte_carlo_returns(10 * raw - 5, none, last, 0.5)
    assert seen.tolist() == [-5 - 2.5 + 1.25, -5 + 2.5, 5.0]
    assert seen.tolist() != (10 * monte_carlo_returns(raw, none, last, 0.5) - 5).tolist()


def test_a_constant_reward_that_goes_on_gives_the_geometric_sum() -> None:
    reward = torch.full((5,), -1.0, dtype=torch.float64)
    found = monte_carlo_returns(reward, bools(0, 0, 0, 0, 0), bools(0, 0, 0, 0, 1), 0.9, -1 / (1 - 0.9))
    assert found.tolist() == pytest.approx([-10.0] * 5)


def test_returns_refuse_a_recording_without_an_end() -> None:
    with pytest.raises(ValueError, match="ends"):
        monte_carlo_returns(doubles(1, 1), bools(0, 0), bools(1, 0), 0.9)
    with pytest.raises(ValueError, match="ends"):
        monte_carlo_returns(doubles(1, 1), bools(1, 0), bools(0, 1), 0.9)


def penalty_inputs(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64)  # noqa: E731
    return draw(4), draw(4, 3), draw(4, 5), draw(4, 5) - 1


def penalty_by_hand(
    data: Tensor, uniform: Tensor, policy: Tensor, logp: Tensor, dims: int, bound: list[float], c: float
) -> list[float]:
    out = []
    for b in range(len(data)):
        values = [float(q) - dims * math.log(0.5) for q in uniform[b]]
        values += [max(float(q), bound[b]) - float(p) for q, p in zip(policy[b], logp[b], strict=True)]
        out.append(c * math.log(sum(math.exp(v / c) for v in values)) - float(data[b]))
    return out


@pytest.mark.parametrize(
    ("bound", "c"), [([-math.inf] * 4, 1.0), ([0.3, -0.2, 5.0, -9.0], 1.0), ([0.0] * 4, 0.5)]
)
def test_penalty_against_a_loop(bound: list[float], c: float) -> None:
    data, uniform, policy, logp = penalty_inputs()
    found = conservative_penalty(data, uniform, policy, logp, 2, doubles(*bound), c)
    assert found.tolist() == pytest.approx(penalty_by_hand(data, uniform, policy, logp, 2, bound, c))


def test_without_a_bound_cal_ql_is_cql_bit_for_bit() -> None:
    for dtype in (torch.float32, torch.float64):
        grads = []
        for bound in (None, torch.full((4,), -torch.inf, dtype=dtype)):
            inputs = [x.to(dtype).requires_grad_() for x in penalty_inputs()]
            value = conservative_penalty(*inputs[:3], inputs[3], 2, bound)
            value.sum().backward()
            grads.append([value.detach(), *(x.grad for x in inputs[:3])])
        assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_below_the_return_the_gradient_is_exactly_zero_and_above_it_is_not() -> None:
    data, uniform, policy, logp = penalty_inputs()
    policy.requires_grad_()
    bound = doubles(0.0, 0.0, 0.0, 0.0)
    conservative_penalty(data, uniform, policy, logp, 2, bound).sum().backward()
    assert policy.grad is not None
    below = policy.detach() < bound[:, None]
    assert 3 < int(below.sum()) < 17
    assert bool((policy.grad[below] == 0).all()) and bool((policy.grad[~below] > 0).all())


def test_the_bound_is_not_put_under_uniform_or_recorded_actions() -> None:
    data, uniform, policy, logp = (x.requires_grad_() for x in penalty_inputs())
    conservative_penalty(data, uniform, policy, logp, 2, doubles(9, 9, 9, 9)).sum().backward()
    assert uniform.grad is not None and bool((uniform.grad > 0).all())
    assert data.grad is not None and data.grad.tolist() == [-1.0] * 4
    assert logp.grad is None


def test_penalty_of_a_flat_critic_is_the_logarithm_of_the_importance_weights() -> None:
    """Uniform proposals only, Q = 0: log sum of N densities 1 / 2^-d."""
    zero = torch.zeros(1, 4, dtype=torch.float64)
    found = conservative_penalty(doubles(0), zero, zero, torch.full_like(zero, -3 * math.log(2)), 3)
    assert float(found) == pytest.approx(math.log(8 * 8))


def test_penalty_gradient() -> None:
    data, uniform, policy, logp = (x.requires_grad_() for x in penalty_inputs())
    bound = doubles(0.1, 0.1, 0.1, 0.1)
    assert torch.autograd.gradcheck(
        lambda d, u, p: conservative_penalty(d, u, p, logp.detach(), 2, bound, 0.7), (data, uniform, policy)
    )


def test_actor_loss_finds_the_boltzmann_policy_of_a_quadratic_value() -> None:
    """For Q = -(a - 1)^2 / 2 the best Gaussian at temperature alpha has mean 1 and variance alpha."""
    rng = torch.Generator().manual_seed(0)
    mean, log_std = doubles(0.0).requires_grad_(), doubles(0.0).requires_grad_()
    optimizer = torch.optim.Adam([mean, log_std], lr=0.05)
    for _ in range(400):
        noise = torch.randn(256, generator=rng, dtype=torch.float64)
        noise = torch.cat([noise, -noise])
        action = mean + log_std.exp() * noise
        logp = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
        loss = sac_actor_loss(logp, -0.5 * (action - 1).square(), 0.25)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(mean) == pytest.approx(1.0, abs=0.02)
    assert float(log_std.exp()) == pytest.approx(0.5, abs=0.02)


def test_temperature_rises_while_entropy_is_short_of_its_target() -> None:
    for logp, sign in ((doubles(3.0, 3.0), -1.0), (doubles(-5.0, -5.0), 1.0)):
        log_alpha = torch.zeros((), dtype=torch.float64, requires_grad=True)
        temperature_loss(log_alpha, logp, -2.0).backward()
        assert log_alpha.grad is not None and math.copysign(1, float(log_alpha.grad)) == sign
        assert float(log_alpha.grad) == pytest.approx(-float(logp.mean()) + 2.0)


@pytest.mark.parametrize("tau", [0.5, 0.9])
def test_expectile_against_a_loop_and_its_minimum(tau: float) -> None:
    sample = np.random.default_rng(1).normal(size=40)
    d = doubles(*sample).requires_grad_()
    by_hand = np.mean([(tau if x >= 0 else 1 - tau) * x * x for x in sample])
    assert float(expectile_loss(d, tau)) == pytest.approx(by_hand)
    grid = np.linspace(-2, 2, 4001)
    values = [float(expectile_loss(doubles(*(sample - v)), tau)) for v in grid[::20]]
    best = grid[::20][int(np.argmin(values))]
    assert best == pytest.approx(sample.mean(), abs=0.02) if tau == 0.5 else best > sample.mean() + 0.5


def test_advantage_weights() -> None:
    weights = advantage_weights(doubles(0.0, 1.0, -1.0, 99.0), 3.0)
    assert weights.tolist() == pytest.approx([1.0, math.exp(3), math.exp(-3), 100.0])
    assert advantage_weights(doubles(5.0, -5.0), 0.0).tolist() == [1.0, 1.0]
    assert not advantage_weights(doubles(1.0).requires_grad_(), 1.0).requires_grad


def test_bad_arguments_are_named() -> None:
    one = doubles(1.0)
    for call, name in (
        (lambda: td_target(one, one, one, 0.9), "terminal"),
        (lambda: td_target(one, one, bools(0), 1.5), "gamma"),
        (lambda: expectile_loss(one, 1.0), "tau"),
        (lambda: advantage_weights(one, -1.0), "temperature"),
        (
            lambda: conservative_penalty(one, one[None], one[None], one[None], 1, temperature=0.0),
            "temperature",
        ),
        (lambda: sac_actor_loss(one, doubles(1, 2), 0.1), "shape"),
    ):
        with pytest.raises(ValueError, match=name):
            call()


def test_cloning_of_what_was_rewarded_leaves_the_rest_alone() -> None:
    logp = torch.tensor([-1.0, -2.0, -3.0], requires_grad=True)
    loss = rewarded_cloning_loss(logp, torch.tensor([2.0, 0.0, 0.5]))
    assert float(loss) == pytest.approx(4 / 3)
    loss.backward()
    assert torch.allclose(logp.grad, torch.tensor([-1 / 3, 0.0, -1 / 3]))
    with pytest.raises(ValueError, match="mc_return"):
        rewarded_cloning_loss(logp, torch.zeros(2))
