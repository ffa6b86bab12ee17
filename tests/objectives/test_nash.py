"""Nash-MD on exact games: where it converges, its floor, what other methods do there; and its policy gradient."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from mmalign.objectives.nash import mixture_log_weights, nash_gap, nash_md_loss, nash_md_step

P = torch.tensor([[0.5, 0.9, 0.3], [0.1, 0.5, 0.8], [0.7, 0.2, 0.5]], dtype=torch.float64)
MU = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64).log()
TAU = 0.1


def descended(eta: float, steps: int, start: Tensor = MU) -> Tensor:
    logp = start
    for _ in range(steps):
        logp = nash_md_step(logp, MU, P, eta, TAU)
    return logp


def test_floor_shrinks_with_the_square_of_the_step() -> None:
    gaps = [float(nash_gap(descended(eta, 4000), MU, P, TAU)) for eta in (1.0, 0.3, 0.1, 0.03)]
    assert gaps == pytest.approx([3.3e-4, 3.0e-5, 3.4e-6, 3.1e-7], rel=0.1)
    assert gaps[0] / gaps[2] == pytest.approx(100, rel=0.15)


def test_a_decreasing_step_has_no_floor() -> None:
    logp, gaps = MU, {}
    for t in range(4001):
        logp = nash_md_step(logp, MU, P, 2 / (TAU * (t + 2)), TAU)
        if t in (1000, 4000):
            gaps[t] = float(nash_gap(logp, MU, P, TAU))
    assert gaps[4000] < gaps[1000] / 8 and gaps[4000] < 2e-8


def test_the_last_iterate_beats_self_play_without_regularisation() -> None:
    from_mu = descended(0.1, 3000)
    logp, trail = MU, []
    for _ in range(3000):
        logp = torch.log_softmax(logp + 0.1 * P @ logp.exp(), 0)
        trail.append(logp.exp())
    average = torch.stack(trail).mean(0).log()
    last, mean, nash = (float(nash_gap(x, MU, P, 0.0)) for x in (logp, average, from_mu))
    assert last > 0.1 and mean < 0.01 < nash < 0.1  # tau 0.1 keeps Nash-MD near mu


def test_indifference_leaves_the_reference_where_it_is() -> None:
    even = torch.full((3, 3), 0.5, dtype=torch.float64)
    logp = torch.log_softmax(torch.tensor([0.0, 2.0, -1.0], dtype=torch.float64), 0)
    assert torch.allclose(nash_md_step(MU, MU, even, 0.5, TAU), MU)
    for _ in range(400):
        logp = nash_md_step(logp, MU, even, 0.5, TAU)
    assert torch.allclose(logp, MU, atol=1e-6) and float(nash_gap(MU, MU, even, TAU)) == pytest.approx(
        0, abs=1e-12
    )


def test_gap_is_a_maximum_over_answers() -> None:
    """Against a grid of opponents on the simplex."""
    logp = torch.log_softmax(torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64), 0)
    grid = [(a, b, 100 - a - b) for a in range(1, 99) for b in range(1, 100 - a)]
    q = torch.tensor(grid, dtype=torch.float64) / 100
    own = TAU * (logp.exp() * (logp - MU)).sum()
    values = q @ P @ logp.exp() - TAU * (q * (q.log() - MU)).sum(1) + own - 0.5
    assert float(nash_gap(logp, MU, P, TAU)) == pytest.approx(float(values.max()), abs=2e-3)
    assert float(nash_gap(logp, MU, P, TAU)) >= float(values.max()) - 1e-12


def sequences(logits: Tensor) -> tuple[list[tuple[int, int]], Tensor]:
    """All answers of two steps of a policy whose second step depends on the first; ``[4, 2]`` log-probabilities."""
    first, second = torch.log_softmax(logits[0], 0), torch.log_softmax(logits[1:], 1)
    answers = list(itertools.product(range(2), repeat=2))
    return answers, torch.stack([torch.stack([first[a], second[a, b]]) for a, b in answers])


def test_gradient_is_that_of_the_regularised_preference() -> None:
    """Summed over all answers with their probabilities, the loss has the exact gradient, cross terms of the KL too."""
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 2, generator=g, dtype=torch.float64)
    ref = sequences(torch.randn(3, 2, generator=g, dtype=torch.float64))[1]
    wins = torch.rand(4, generator=g, dtype=torch.float64)
    exact = logits.clone().requires_grad_()
    logp = sequences(exact)[1]
    probs = logp.sum(1).exp()
    (-(probs * wins).sum() + 0.3 * (probs * (logp - ref).sum(1)).sum()).backward()
    sampled = logits.clone().requires_grad_()
    logp = sequences(sampled)[1]
    mask = torch.ones(1, 2, dtype=torch.bool)
    total = sum(
        (
            logp[k].sum().exp().detach()
            * nash_md_loss(logp[k : k + 1], logp[k : k + 1], ref[k : k + 1], mask, wins[k : k + 1], 0.3)[0]
            for k in range(4)
        ),
        start=torch.zeros((), dtype=torch.float64),
    )
    total.backward()
    assert exact.grad is not None and sampled.grad is not None
    assert torch.allclose(sampled.grad, exact.grad, atol=1e-12)


def test_loss_is_the_loop_and_gradcheck() -> None:
    g = torch.Generator().manual_seed(1)
    old, ref, logp = (-torch.rand(3, 4, generator=g, dtype=torch.float64) for _ in range(3))
    mask = torch.arange(4) < torch.tensor([[4], [1], [3]])
    wins = torch.tensor([0.2, 0.9, 0.5], dtype=torch.float64)
    total = 0.0
    for b in range(3):
        n = int(mask[b].sum())
        for t in range(n):
            kl = sum(float(old[b, s] - ref[b, s]) for s in range(t, n))
            total -= math.exp(float(logp[b, t] - old[b, t])) * (float(wins[b]) - 0.5 - 0.2 * kl) / 3
    value, metrics = nash_md_loss(logp, old, ref, mask, wins, 0.2)
    assert float(value) == pytest.approx(total, abs=1e-12) and float(metrics["preference"]) == pytest.approx(
        1.6 / 3
    )
    poisoned = torch.where(mask, logp, float("nan"))
    assert float(nash_md_loss(poisoned, old, ref, mask, wins, 0.2)[0]) == pytest.approx(total, abs=1e-12)
    assert torch.autograd.gradcheck(
        lambda x: nash_md_loss(x, old, ref, mask, wins, 0.2)[0], (logp.requires_grad_(),)
    )


def test_mixture_weights_are_bounded_and_give_the_mixture() -> None:
    g = torch.Generator().manual_seed(2)
    pi, mu = (torch.log_softmax(3 * torch.randn(7, generator=g, dtype=torch.float64), 0) for _ in range(2))
    for share in (0.0, 0.125, 0.5, 1.0):
        weights = mixture_log_weights(pi, mu, share)
        assert float(weights.max()) <= math.log(2.0) + 1e-12
        law = 0.5 * (pi.exp() + mu.exp()) * weights.exp()
        wanted = torch.softmax((1 - share) * pi + share * mu, 0)
        assert torch.allclose(law / law.sum(), wanted, atol=1e-12)


def test_refusals() -> None:
    ones, mask = torch.zeros(2, 2), torch.ones(2, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="probabilities"):
        nash_md_loss(ones, ones, ones, mask, torch.tensor([0.5, 1.5]), 0.1)
    with pytest.raises(ValueError, match="tau"):
        nash_md_loss(ones, ones, ones, mask, torch.tensor([0.5, 0.5]), -0.1)
    with pytest.raises(ValueError, match="eta"):
        nash_md_step(MU, MU, P, 20.0, 0.1)
    with pytest.raises(ValueError, match="share"):
        mixture_log_weights(MU, MU, 1.1)
