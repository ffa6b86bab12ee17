"""Entropic plans against POT, closed forms and finite differences; what the reward sees and what it does not."""

from __future__ import annotations

import math

import numpy as np
import ot
import pytest
import torch
from torch import Tensor

from mmalign.objectives.optimal_transport import (
    alignment_loss,
    cosine_cost,
    sinkhorn_plan,
    transport_distance,
    transport_reward,
)


def videos(batch: int, steps: int, width: int = 4, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(batch, steps, width, generator=rng, dtype=torch.float64)


def prefix(lengths: list[int], steps: int) -> Tensor:
    return torch.arange(steps)[None] < torch.tensor(lengths)[:, None]


def test_cosine_cost_against_numpy() -> None:
    x, y = videos(1, 5), videos(1, 7, seed=1)
    a, b = x[0].numpy(), y[0].numpy()
    by_hand = 1 - (a @ b.T) / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)[None]
    assert np.allclose(cosine_cost(x, y)[0].numpy(), by_hand)


@pytest.mark.parametrize("epsilon", [0.05, 0.2, 1.0])
def test_plan_equals_pot(epsilon: float) -> None:
    cost = cosine_cost(videos(1, 6), videos(1, 9, seed=1))
    ours = sinkhorn_plan(cost, epsilon, 2000)[0].numpy()
    a, b = np.full(6, 1 / 6), np.full(9, 1 / 9)
    theirs = ot.sinkhorn(
        a, b, cost[0].numpy(), epsilon, method="sinkhorn_log", numItermax=20000, stopThr=1e-12
    )
    assert np.abs(ours - theirs).max() < 1e-8


def test_a_small_epsilon_reaches_the_exact_plans_cost() -> None:
    cost = cosine_cost(videos(1, 8), videos(1, 8, seed=1))
    exact = ot.emd2(np.full(8, 1 / 8), np.full(8, 1 / 8), cost[0].numpy())
    assert float((sinkhorn_plan(cost, 0.005, 3000) * cost).sum()) == pytest.approx(exact, abs=5e-3)


def test_marginals_and_padding() -> None:
    cost = cosine_cost(videos(3, 8).float(), videos(3, 6, seed=1).float())
    rows, columns = prefix([8, 5, 1], 8), prefix([6, 2, 6], 6)
    cost = torch.where(rows[:, :, None] & columns[:, None, :], cost, torch.full_like(cost, math.nan))
    plan = sinkhorn_plan(cost, 0.1, 50, rows, columns)
    assert bool(torch.isfinite(plan).all()) and bool((plan[~rows] == 0).all())
    for b, (n, m) in enumerate(((8, 6), (5, 2), (1, 6))):
        assert torch.allclose(plan[b, :n].sum(1), torch.full((n,), 1 / n), atol=1e-4)
        assert torch.allclose(plan[b, :, :m].sum(0), torch.full((m,), 1 / m), atol=1e-6)
        alone = sinkhorn_plan(cost[b : b + 1, :n, :m], 0.1, 50)
        assert torch.allclose(plan[b, :n, :m], alone[0], atol=1e-6)


def test_a_large_epsilon_gives_the_independent_plan() -> None:
    cost = cosine_cost(videos(1, 4), videos(1, 5, seed=1))
    assert torch.allclose(sinkhorn_plan(cost, 1e6), torch.full((1, 4, 5), 1 / 20, dtype=torch.float64))


def test_the_same_video_gives_a_diagonal_plan_and_no_cost() -> None:
    x = torch.eye(6, dtype=torch.float64)[None]
    cost = cosine_cost(x, x)
    plan = sinkhorn_plan(cost, 0.05)
    assert torch.allclose(plan[0], torch.eye(6, dtype=torch.float64) / 6, atol=1e-6)
    assert float(transport_reward(plan, cost).sum()) == pytest.approx(0.0, abs=1e-6)


def test_reward_per_step_against_a_loop_and_its_sum() -> None:
    x, y = videos(2, 5), videos(2, 4, seed=1)
    cost = cosine_cost(x, y)
    plan = sinkhorn_plan(cost, 0.1)
    reward = transport_reward(plan, cost)
    for b in range(2):
        for i in range(5):
            by_hand = -sum(float(plan[b, i, j] * cost[b, i, j]) for j in range(4))
            assert float(reward[b, i]) == pytest.approx(by_hand)
    assert torch.allclose(-reward.sum(1), transport_distance(x, y, 0.1))


def test_the_reward_is_blind_to_order() -> None:
    """A video played backwards, or its frames shuffled, earns the same: the documented limit of plain transport."""
    x, y = videos(1, 6), videos(1, 6, seed=1)
    forward, backward = (transport_distance(v, y, 0.05) for v in (x, x.flip(1)))
    shuffled = transport_distance(x[:, [3, 0, 5, 1, 4, 2]], y, 0.05)
    assert torch.allclose(forward, backward) and torch.allclose(forward, shuffled)
    cost = cosine_cost(x, y)
    steps = transport_reward(sinkhorn_plan(cost, 0.05), cost)
    cost_back = cosine_cost(x.flip(1), y)
    assert torch.allclose(transport_reward(sinkhorn_plan(cost_back, 0.05), cost_back), steps.flip(1))


def test_gradient_through_the_plan() -> None:
    x, y = videos(2, 3).requires_grad_(), videos(2, 4, seed=1).requires_grad_()
    masks = prefix([3, 2], 3), prefix([4, 3], 4)
    assert torch.autograd.gradcheck(lambda a, b: transport_distance(a, b, 0.3, 8, *masks), (x, y))
    transport_distance(x, y, 0.3, 8, *masks).sum().backward()
    assert x.grad is not None and bool((x.grad[1, 2] == 0).all())


def test_alignment_loss_is_bradley_terry_on_distances() -> None:
    near, far = torch.tensor([0.2, 0.5]), torch.tensor([0.6, 0.1])
    by_hand = np.mean([-math.log(1 / (1 + math.exp(-4 * gap))) for gap in (0.4, -0.4)])
    assert float(alignment_loss(near, far, 4.0)) == pytest.approx(by_hand, rel=1e-6)


def test_alignment_learns_which_coordinate_matters() -> None:
    """Triplets ranked by the first coordinate alone: the learned weight of the other falls."""
    data = videos(192, 4, 2, seed=3)
    anchor, one, two = data[:64], data[64:128], data[128:]
    true = [transport_distance(anchor[..., :1], v[..., :1], 0.1) for v in (one, two)]
    better = (true[0] < true[1])[:, None, None]
    chosen, other = torch.where(better, one, two), torch.where(better, two, one)
    log_weight = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([log_weight], lr=0.1)
    for _ in range(40):
        a, c, o = (v * log_weight.exp() for v in (anchor, chosen, other))
        loss = alignment_loss(transport_distance(a, c, 0.1), transport_distance(a, o, 0.1), 10.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(log_weight[1].detach() - log_weight[0].detach()) < -2


def test_bad_arguments_are_named() -> None:
    cost = torch.zeros(1, 2, 2)
    for call, name in (
        (lambda: sinkhorn_plan(cost, 0.0), "epsilon"),
        (lambda: sinkhorn_plan(cost, 0.1, 5, torch.zeros(1, 2, dtype=torch.bool)), "no real step"),
        (lambda: cosine_cost(videos(1, 2, 3), videos(1, 2, 4)), "width"),
        (lambda: alignment_loss(torch.ones(1), torch.ones(1), 0.0), "scale"),
        (lambda: transport_reward(cost, torch.zeros(1, 2, 3)), "shape"),
    ):
        with pytest.raises(ValueError, match=name):
            call()
