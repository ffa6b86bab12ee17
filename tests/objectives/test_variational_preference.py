"""VPL's bound against numerical integration and torch.distributions; a posterior that does not see order."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from mmalign.objectives.variational_preference import gaussian_kl, preference_logits, user_posterior, vpl_loss

DOUBLE = torch.float64


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def test_logits_are_the_difference_of_sums() -> None:
    first, second = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.5, 0.5]])
    assert float(preference_logits(first, second, 2.0)) == 2.5


def test_kl_equals_torch_and_has_its_half() -> None:
    mean, log_var, prior_mean, prior_log_var = (draw(3, 4, seed=k) for k in range(4))
    ours = gaussian_kl(mean, log_var, prior_mean, prior_log_var)
    theirs = kl_divergence(
        Normal(mean, (0.5 * log_var).exp()), Normal(prior_mean, (0.5 * prior_log_var).exp())
    )
    assert torch.allclose(ours, theirs.sum(1))
    zero = torch.zeros(1, 1, dtype=DOUBLE)
    assert float(gaussian_kl(torch.full_like(zero, 2.0), zero, zero, zero)) == 2.0  # m^2 / 2, not m^2


def test_loss_against_a_loop() -> None:
    logits, kl = draw(2, 3), torch.tensor([0.7, 1.1], dtype=DOUBLE)
    label = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, math.nan]], dtype=DOUBLE)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    total = 0.0
    for b, count in ((0, 3), (1, 2)):
        nll = sum(
            -math.log(1 / (1 + math.exp(-float(logits[b, n]) * (2 * float(label[b, n]) - 1))))
            for n in range(count)
        )
        total += (nll + 0.5 * float(kl[b])) / count
    assert float(vpl_loss(logits, label, mask, kl, 0.5)) == pytest.approx(total / 2)


def test_the_bound_lies_above_the_true_likelihood_and_touches_it_at_the_posterior() -> None:
    """One comparison with reward z: -log int sigmoid(z) N(z; 0, 1) dz = log 2 <= loss; near it for a good q."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(24)

    def bound(mean: float, log_var: float) -> float:
        z = mean + math.exp(0.5 * log_var) * torch.tensor(nodes, dtype=DOUBLE)
        m, v = (torch.full((len(nodes), 1), x, dtype=DOUBLE) for x in (mean, log_var))
        zero = torch.zeros(1, dtype=DOUBLE)
        kl = gaussian_kl(m, v, zero, zero)
        ones = torch.ones(len(nodes), 1, dtype=DOUBLE)
        each = [
            vpl_loss(z[i : i + 1, None], ones[:1], ones[:1].bool(), kl[i : i + 1], 1.0)
            for i in range(len(nodes))
        ]
        return float((torch.stack(each) * torch.tensor(weights / weights.sum(), dtype=DOUBLE)).sum())

    grid = [bound(m, v) for m in np.linspace(0, 0.8, 5) for v in np.linspace(-0.4, 0, 5)]
    assert min(grid) >= math.log(2) - 1e-9
    assert min(grid) == pytest.approx(math.log(2), abs=6e-3)


def test_posterior_is_the_product_of_gaussians() -> None:
    centre, log_precision = draw(1, 3, 2), draw(1, 3, 2, seed=1)
    mean, log_var = user_posterior(centre, log_precision, torch.ones(1, 3, dtype=torch.bool))
    z = torch.linspace(-8, 8, 20001, dtype=DOUBLE)
    for d in range(2):
        log_density = -0.5 * z.square()
        for n in range(3):
            log_density = log_density - 0.5 * log_precision[0, n, d].exp() * (z - centre[0, n, d]).square()
        p = torch.softmax(log_density, 0)
        assert float(mean[0, d]) == pytest.approx(float((p * z).sum()), abs=1e-6)
        spread = float((p * (z - (p * z).sum()).square()).sum())
        assert float(log_var[0, d].exp()) == pytest.approx(spread, rel=1e-4)


def test_posterior_ignores_order_and_padding_and_tightens_with_evidence() -> None:
    centre, log_precision = draw(1, 5, 3), draw(1, 5, 3, seed=1)
    every = torch.ones(1, 5, dtype=torch.bool)
    mean, log_var = user_posterior(centre, log_precision, every)
    order = [4, 2, 0, 3, 1]
    again = user_posterior(centre[:, order], log_precision[:, order], every)
    assert torch.allclose(mean, again[0]) and torch.allclose(log_var, again[1])
    padded = torch.cat([centre, torch.full((1, 2, 3), math.nan, dtype=DOUBLE)], 1)
    precision = torch.cat([log_precision, torch.full((1, 2, 3), math.nan, dtype=DOUBLE)], 1)
    found = user_posterior(padded, precision, torch.arange(7)[None] < 5)
    assert torch.allclose(mean, found[0]) and torch.allclose(log_var, found[1])
    spreads = [
        float(user_posterior(centre, log_precision, torch.arange(5)[None] < n)[1].sum()) for n in range(6)
    ]
    assert spreads[0] == 0.0 and spreads == sorted(spreads, reverse=True)


def test_gradients() -> None:
    centre, log_precision = draw(2, 3, 2).requires_grad_(), draw(2, 3, 2, seed=1).requires_grad_()
    mask = torch.tensor([[True, True, True], [True, False, False]])
    label = torch.tensor([[1.0, 0.0, 1.0], [1.0, 0.0, 0.0]], dtype=DOUBLE)
    zero = torch.zeros(2, dtype=DOUBLE)

    def loss(c: Tensor, p: Tensor) -> Tensor:
        mean, log_var = user_posterior(c, p, mask)
        return vpl_loss(
            c.sum(2) * mean.sum(1, keepdim=True), label, mask, gaussian_kl(mean, log_var, zero, zero), 1.0
        )

    assert torch.autograd.gradcheck(loss, (centre, log_precision))


def test_bad_arguments_are_named() -> None:
    two, one = torch.zeros(1, 2), torch.zeros(1)
    real = torch.ones(1, 2, dtype=torch.bool)
    for call, name in (
        (lambda: vpl_loss(two, two + 2, real, one, 1.0), "labels"),
        (lambda: vpl_loss(two, two, ~real, one, 1.0), "at least one"),
        (lambda: vpl_loss(two, two, real, one, -1.0), "kl_weight"),
        (lambda: preference_logits(two, two, 0.0), "scale"),
    ):
        with pytest.raises(ValueError, match=name):
            call()
