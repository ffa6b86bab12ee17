"""SPIN on exact policies: the data is a fixed point, the minimiser is known, and a small beta overshoots."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from mmalign.objectives.preference import dpo_loss
from mmalign.objectives.spin import spin_minimiser, spin_population_loss


def laws(seed: int = 0, size: int = 6) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    draws = torch.randn(2, size, generator=g, dtype=torch.float64)
    return torch.log_softmax(draws[0], 0), torch.log_softmax(0.5 * draws[1], 0)


def minimised(data: Tensor, opponent: Tensor, beta: float) -> Tensor:
    """The round's exact loss, minimised numerically from the opponent."""
    logits = opponent.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [logits],
        lr=1.0,
        max_iter=500,
        tolerance_grad=1e-13,
        tolerance_change=1e-16,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = spin_population_loss(torch.log_softmax(logits, 0), data, opponent, beta)
        loss.backward()
        return loss

    for _ in range(4):
        optimizer.step(closure)
    return torch.log_softmax(logits.detach(), 0)


def kl(p: Tensor, q: Tensor) -> float:
    return float((p.exp() * (p - q)).sum())


@pytest.mark.parametrize("beta", [0.1, 1.0, 5.0])
def test_data_is_a_fixed_point_for_every_beta(beta: float) -> None:
    data, _ = laws()
    logits = data.clone().requires_grad_()
    loss = spin_population_loss(torch.log_softmax(logits, 0), data, data, beta)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(math.log(2.0), abs=1e-12)
    assert logits.grad is not None and float(logits.grad.abs().max()) < 1e-15
    assert torch.allclose(spin_minimiser(data, data, beta), data)


@pytest.mark.parametrize("beta", [0.5, 1.0, 5.0])
def test_minimiser_is_what_descent_finds(beta: float) -> None:
    data, opponent = laws()
    assert torch.allclose(spin_minimiser(data, opponent, beta), minimised(data, opponent, beta), atol=1e-6)


def test_beta_one_reaches_the_data_in_one_round_and_above_one_contracts() -> None:
    data, opponent = laws()
    assert torch.allclose(spin_minimiser(data, opponent, 1.0), data)
    here, distances = opponent, [kl(data, opponent)]
    for _ in range(6):
        here = spin_minimiser(data, here, 5.0)
        distances.append(kl(data, here))
    assert all(after < before for before, after in itertools.pairwise(distances))


def test_a_small_beta_overshoots_tenfold_in_log_space() -> None:
    """The released beta of 0.1, minimised exactly: further from the data than the start was."""
    data, opponent = laws()
    after = spin_minimiser(data, opponent, 0.1)
    moved, wanted = after - opponent, data - opponent
    centred = [x - x.mean() for x in (moved, wanted)]
    assert torch.allclose(centred[0], 10 * centred[1])
    assert kl(data, after) > 3 * kl(data, opponent) > 0.1


@pytest.mark.xfail(
    reason="the released beta of 0.1 without early stopping overshoots, round after round", strict=True
)
def test_rounds_at_a_small_beta_approach_the_data() -> None:
    data, here = laws()
    distances = []
    for _ in range(3):
        here = spin_minimiser(data, here, 0.1)
        distances.append(kl(data, here))
    assert distances[-1] < distances[0]


def test_population_loss_is_the_mean_of_the_pair_loss() -> None:
    data, opponent = laws()
    _, policy = laws(3)
    total = 0.0
    mask = torch.ones(1, 1, dtype=torch.bool)
    for y in range(6):
        for other in range(6):
            args = [x[k].view(1, 1) for x in (policy, opponent) for k in (y, other)]
            value, _ = dpo_loss(args[0], args[1], args[2], args[3], mask, mask, beta=0.3)
            total += float(data[y].exp() * opponent[other].exp() * value)
    assert float(spin_population_loss(policy, data, opponent, 0.3)) == pytest.approx(total, abs=1e-12)


def test_gradient_check_and_refusals() -> None:
    data, opponent = laws()
    _, policy = laws(3)
    assert torch.autograd.gradcheck(
        lambda x: spin_population_loss(x, data, opponent, 0.3), (policy.requires_grad_(),)
    )
    with pytest.raises(ValueError, match="beta"):
        spin_minimiser(data, opponent, 0.0)
    with pytest.raises(ValueError, match="expected"):
        spin_minimiser(data, opponent[:3], 1.0)
