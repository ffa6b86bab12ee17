"""Multiplier, combined advantage and cost-model loss: golden numbers, a numpy loop, gradients, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mmalign.objectives.advantage import gae, group_advantage
from mmalign.objectives.constrained import combine_with_cost, cost_model_loss, multiplier_step


def test_multiplier_golden() -> None:
    assert multiplier_step(0.0, 1.5, 0.5, 0.1) == pytest.approx(0.1)
    assert multiplier_step(math.log(2.0), 0.2, 0.5, 0.1) == pytest.approx(math.log(2.0) - 0.06)
    assert multiplier_step(math.log(4.9), 9.0, 0.0, 1.0, lambda_max=5.0) == math.log(5.0)
    assert multiplier_step(0.3, 0.5, 0.5, 0.1) == 0.3


def test_multiplier_is_the_gradient_of_the_lagrangian_in_log_space() -> None:
    """Equal to plain SGD on ``-(J_C - d) exp(log_lambda)`` over several steps."""
    log_lambda = torch.nn.Parameter(torch.tensor(0.2, dtype=torch.float64))
    optimizer = torch.optim.SGD([log_lambda], lr=0.07)
    ours = 0.2
    for cost in np.random.default_rng(0).normal(0.4, 1.0, 20):
        optimizer.zero_grad()
        (-(cost - 0.3) * log_lambda.exp()).backward()
        optimizer.step()
        ours = multiplier_step(ours, float(cost), 0.3, 0.07)
    assert ours == pytest.approx(log_lambda.item(), abs=1e-12)


def test_multiplier_refusals() -> None:
    for arguments, message in [
        ((0.0, math.nan, 0.0, 0.1), "finite"),
        ((0.0, 1.0, 0.0, -0.1), "lr >= 0"),
        ((0.0, 1.0, 0.0, 0.1, 0.0), "lambda_max > 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            multiplier_step(*arguments)  # type: ignore[arg-type]


def test_combination_golden_and_limits() -> None:
    reward, cost = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.5, 4.0]])
    assert torch.equal(combine_with_cost(reward, cost, 0.0), reward)
    assert combine_with_cost(reward, cost, 3.0).tolist() == [[-0.125, -3.5]]
    assert torch.allclose(combine_with_cost(reward, cost, 1e9), -cost, atol=1e-6)
    with pytest.raises(ValueError, match="multiplier must be"):
        combine_with_cost(reward, cost, -0.1)
    with pytest.raises(ValueError, match="cost has shape"):
        combine_with_cost(reward, cost[:, :1], 0.1)


def test_combining_before_or_after_gae_and_group_means_is_the_same() -> None:
    rng = torch.Generator().manual_seed(0)
    reward, cost, value, cost_value = (
        torch.randn(4, 6, generator=rng, dtype=torch.float64) for _ in range(4)
    )
    mask = torch.arange(6)[None] < torch.tensor([6, 3, 1, 5])[:, None]
    after = combine_with_cost(
        gae(reward, value, mask, 0.9, 0.8)[0], gae(cost, cost_value, mask, 0.9, 0.8)[0], 0.7
    )
    before = gae(
        combine_with_cost(reward, cost, 0.7), combine_with_cost(value, cost_value, 0.7), mask, 0.9, 0.8
    )[0]
    assert torch.allclose(after, before, atol=1e-12)
    group = torch.tensor([0, 0, 1, 1])
    totals = [reward.sum(1), cost.sum(1)]
    after = combine_with_cost(*(group_advantage(t, group, scale="none") for t in totals), 0.7)
    before = group_advantage(combine_with_cost(*totals, 0.7), group, scale="none")
    assert torch.allclose(after, before, atol=1e-12)


def _loop(worse: np.ndarray, better: np.ndarray, bad: np.ndarray, also: np.ndarray, coef: float) -> float:
    total = 0.0
    for w, b, sw, sb in zip(worse, better, bad, also, strict=True):
        total += math.log1p(math.exp(-(w - b)))
        for cost, unsafe in ((w, sw), (b, sb)):
            total += coef * math.log1p(math.exp(-cost if unsafe else cost))
    return total / len(worse)


def test_cost_model_loss_golden() -> None:
    zero, flags = torch.zeros(2), torch.tensor([True, False])
    value, metrics = cost_model_loss(zero, zero, flags, torch.tensor([False, False]))
    assert float(value) == pytest.approx(3 * math.log(2.0))
    assert float(metrics["accuracy/order"]) == 0.0
    value, metrics = cost_model_loss(
        torch.tensor([2.0]), torch.tensor([-1.0]), torch.tensor([True]), torch.tensor([False])
    )
    expected = math.log1p(math.exp(-3.0)) + math.log1p(math.exp(-2.0)) + math.log1p(math.exp(-1.0))
    assert float(value) == pytest.approx(expected) == pytest.approx(0.488777, abs=1e-6)
    assert (float(metrics["accuracy/order"]), float(metrics["accuracy/sign"])) == (1.0, 1.0)


@pytest.mark.parametrize("coef", [0.0, 1.0, 0.3])
def test_cost_model_loss_against_a_loop_with_gradient(coef: float) -> None:
    rng = np.random.default_rng(1)
    worse, better = rng.normal(0, 2, 9), rng.normal(0, 2, 9)
    also = rng.random(9) < 0.4
    bad = also | (rng.random(9) < 0.5)
    tensors = [torch.tensor(x, requires_grad=True) for x in (worse, better)]
    value, _ = cost_model_loss(*tensors, torch.tensor(bad), torch.tensor(also), coef)
    assert value.item() == pytest.approx(_loop(worse, better, bad, also, coef), abs=1e-12)
    value.backward()
    for place in range(9):
        step = np.zeros(9)
        step[place] = 1e-6
        numeric = (
            _loop(worse + step, better, bad, also, coef) - _loop(worse - step, better, bad, also, coef)
        ) / 2e-6
        assert tensors[0].grad is not None
        assert float(tensors[0].grad[place]) == pytest.approx(numeric, abs=1e-8)


def test_the_sign_terms_fix_the_zero_that_pairs_leave_free() -> None:
    worse, better = torch.tensor([0.3, 1.0]), torch.tensor([-0.2, 0.4])
    flags = torch.tensor([True, True]), torch.tensor([False, False])
    moved = [cost_model_loss(worse + c, better + c, *flags, sign_coef=0.0)[0] for c in (0.0, 5.0)]
    assert float(moved[0]) == pytest.approx(float(moved[1]), abs=1e-6)
    with_signs = [cost_model_loss(worse + c, better + c, *flags)[0] for c in (0.0, 5.0)]
    assert float(with_signs[1]) > float(with_signs[0]) + 1.0


def test_cost_model_refusals() -> None:
    x, yes, no = torch.zeros(2), torch.tensor([True, True]), torch.tensor([False, True])
    with pytest.raises(ValueError, match="worse_unsafe must be boolean"):
        cost_model_loss(x, x, x, yes)
    with pytest.raises(ValueError, match="pair 0: the less harmful answer is unsafe"):
        cost_model_loss(x, x, no, yes)
    with pytest.raises(ValueError, match="better has shape"):
        cost_model_loss(x, x[:1], yes, yes)


def test_a_pair_counts_by_its_weight() -> None:
    worse, better = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 0.3])
    flags = torch.tensor([True, True]), torch.tensor([False, False])
    first = cost_model_loss(worse[:1], better[:1], *(flag[:1] for flag in flags))[0]
    second = cost_model_loss(worse[1:], better[1:], *(flag[1:] for flag in flags))[0]
    value = cost_model_loss(worse, better, *flags, weight=torch.tensor([3.0, 1.0]))[0]
    torch.testing.assert_close(value, (3 * first + second) / 4)
