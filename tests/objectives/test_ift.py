"""IFT: golden weights, a numpy loop, gradients, and that it is SFT where it should be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mmalign.objectives.ift import ift_loss, ift_weights
from mmalign.objectives.sft import nll_loss
from mmalign.testing.policies import ToyAdapter, toy_rows


def drawn(seed: int = 0, rows: int = 4, width: int = 6) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    logp = -torch.rand(rows, width, generator=g, dtype=torch.float64) * 3 - 0.05
    return logp, torch.arange(width) < torch.tensor([[6], [1], [3], [5]])[:rows]


def loop_loss(logp: Tensor, mask: Tensor, gamma: float) -> float:
    """The released code's equation as plain loops."""
    totals = []
    for line, real in zip(logp.tolist(), mask.tolist(), strict=True):
        losses = [-value for value, keep in zip(line, real, strict=True) if keep]
        n = len(losses)
        raw = [sum(gamma ** (k - t) * losses[k] for k in range(t, n)) for t in range(n)]
        weights = [1.0] * n if gamma == 0 else [w * n / sum(raw) for w in raw]
        totals.append(sum(w * loss for w, loss in zip(weights, losses, strict=True)) / n)
    return float(np.mean(totals))


def test_golden_weights() -> None:
    losses = torch.tensor([[1.0, 0.5, 0.5, 1.0]], dtype=torch.float64)
    weights = ift_weights(losses, torch.ones(1, 4, dtype=torch.bool), 0.5)
    # to go: 1 + .5*.5 + .25*.5 + .125*1 = 1.5, .5 + .25 + .25 = 1, .5 + .5 = 1, 1; sum 4.5, mean 1.125
    assert weights[0].tolist() == pytest.approx([1.5 / 1.125, 1 / 1.125, 1 / 1.125, 1 / 1.125])


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.95, 1.0])
def test_weights_average_one_and_the_loss_is_the_loop(gamma: float) -> None:
    logp, mask = drawn()
    weights = ift_weights(-logp, mask, gamma)
    means = weights.sum(1) / mask.sum(1)
    assert torch.allclose(means, torch.ones_like(means), atol=1e-12)
    assert float(weights[~mask].abs().sum()) == 0.0
    assert float(ift_loss(logp, mask, gamma)[0]) == pytest.approx(loop_loss(logp, mask, gamma), abs=1e-12)


def test_gamma_zero_without_blend_is_sft() -> None:
    logp, _ = drawn()
    mask = torch.ones_like(logp, dtype=torch.bool)
    assert float(ift_loss(logp, mask, 0.0)[0]) == pytest.approx(float(nll_loss(logp, mask)), abs=1e-12)
    adapter = ToyAdapter()
    model = adapter.load("toy:3")
    batch = adapter.collate(toy_rows(5))
    plain, foreseen = adapter.logp(model, batch), adapter.logp_foreseen(model, batch, 0.0)
    assert torch.equal(plain.mask, foreseen.mask) and torch.allclose(plain.values, foreseen.values, atol=1e-6)


def test_the_first_answer_step_does_not_see_a_prediction() -> None:
    """Step 0 is predicted from the prompt alone, so the blend reaches the later steps only."""
    adapter = ToyAdapter()
    model = adapter.load("toy:3")
    batch = adapter.collate(toy_rows(5))
    plain, blended = adapter.logp(model, batch).values, adapter.logp_foreseen(model, batch, 0.7).values
    assert torch.allclose(plain[:, 0], blended[:, 0], atol=1e-6)
    assert not torch.allclose(plain[:, 1:], blended[:, 1:], atol=1e-3)


@pytest.mark.parametrize("gamma", [0.0, 0.6])
def test_gradient_check(gamma: float) -> None:
    logp, mask = drawn()
    assert torch.autograd.gradcheck(lambda x: ift_loss(x, mask, gamma)[0], (logp.requires_grad_(),))


def test_the_released_gradient_also_flows_through_the_weights() -> None:
    logp, mask = drawn()
    grads = []
    for detach in (False, True):
        x = logp.clone().requires_grad_()
        ift_loss(x, mask, 0.6, detach)[0].backward()
        assert x.grad is not None
        grads.append(x.grad)
    assert not torch.allclose(*grads, atol=1e-3)
    assert torch.allclose(grads[1], -ift_weights(-logp, mask, 0.6) / mask.sum(1)[:, None] / len(mask))


def test_the_released_gradient_can_raise_later_losses() -> None:
    """L = (l1^2 + g l1 l2 + l2^2) / (l1 + (1 + g) l2): at l = (1, 0.1) descent makes the second step worse."""
    mask = torch.ones(1, 2, dtype=torch.bool)
    slopes = []
    for detach in (False, True):
        logp = torch.tensor([[-1.0, -0.1]], dtype=torch.float64, requires_grad=True)
        ift_loss(logp, mask, 0.95, detach)[0].backward()
        assert logp.grad is not None
        slopes.append(-float(logp.grad[0, 1]))  # with respect to the loss of the second step
    above, below = 1 + 0.095 + 0.01, 1 + 0.195
    assert slopes[0] == pytest.approx((1.15 * below - 1.95 * above) / below**2) and slopes[0] < -0.5
    assert slopes[1] > 0


def test_padding_is_nothing_and_zero_losses_weigh_one() -> None:
    logp, mask = drawn()
    poisoned = torch.where(mask, logp, float("nan"))
    assert float(ift_loss(poisoned, mask)[0]) == pytest.approx(float(ift_loss(logp, mask)[0]))
    certain = torch.zeros(1, 3)
    assert ift_weights(certain, torch.ones(1, 3, dtype=torch.bool), 0.9).tolist() == [[1.0, 1.0, 1.0]]


def test_refusals() -> None:
    with pytest.raises(ValueError, match="gamma"):
        ift_weights(torch.ones(1, 2), torch.ones(1, 2, dtype=torch.bool), 1.5)
    with pytest.raises(ValueError, match="losses has shape"):
        ift_weights(torch.ones(1, 2), torch.ones(1, 3, dtype=torch.bool), 0.5)
