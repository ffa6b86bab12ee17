"""SFT: token mean, weights, gradient, accumulation, emptiness."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from mmalign.objectives.sft import nll_loss


def test_golden() -> None:
    # -(log .5 + log .25 + log .125) / 3 = (1 + 2 + 3) log 2 / 3 = 2 log 2; the fourth entry is padding
    logp = torch.tensor([[0.5, 0.25], [0.125, 0.9]], dtype=torch.float64).log()
    mask = torch.tensor([[True, True], [True, False]])
    assert nll_loss(logp, mask).item() == pytest.approx(2 * math.log(2), abs=1e-15)


def test_weights_golden() -> None:
    # weights 1, 3, 0: (1 * log 2 + 3 * 2 log 2) / 4 = 7/4 log 2
    logp = torch.tensor([[0.5, 0.25, 0.125]], dtype=torch.float64).log()
    weights = torch.tensor([[1.0, 3.0, 0.0]], dtype=torch.float64)
    every = torch.ones_like(logp, dtype=torch.bool)
    assert nll_loss(logp, every, weights).item() == pytest.approx(7 / 4 * math.log(2), abs=1e-15)


def test_equals_torch_cross_entropy_with_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 7, (3, 5), generator=generator)
    mask = torch.arange(5) < torch.tensor([[5], [2], [3]])
    logp = logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0]
    expected = functional.cross_entropy(logits.flatten(0, 1), labels.masked_fill(~mask, -100).flatten())
    ours = nll_loss(logp, mask)
    assert abs(ours.item() - expected.item()) < 1e-14
    gradients = torch.autograd.grad(ours, logits)[0], torch.autograd.grad(expected, logits)[0]
    assert (gradients[0] - gradients[1]).abs().max().item() < 1e-15


def test_identity_22_weight_one_is_plain() -> None:
    logp = -torch.rand(4, 6, generator=torch.Generator().manual_seed(1))
    mask = torch.rand(4, 6, generator=torch.Generator().manual_seed(2)) > 0.3
    assert nll_loss(logp, mask, torch.ones_like(logp)).item() == nll_loss(logp, mask).item()


def test_accumulation_with_a_normalizer_equals_one_batch() -> None:
    logp = -torch.rand(4, 6, generator=torch.Generator().manual_seed(1)).double()
    mask = torch.rand(4, 6, generator=torch.Generator().manual_seed(2)) > 0.3
    count = float(mask.sum())
    parts = nll_loss(logp[:1], mask[:1], normalizer=count) + nll_loss(logp[1:], mask[1:], normalizer=count)
    assert parts.item() == pytest.approx(nll_loss(logp, mask).item(), abs=1e-15)


def test_empty_and_garbage() -> None:
    logp = torch.tensor([[-1.0, math.nan], [math.inf, -math.inf]], requires_grad=True)
    mask = torch.tensor([[True, False], [False, False]])
    loss = nll_loss(logp, mask, torch.tensor([[2.0, math.nan], [math.inf, 1.0]]))
    assert loss.item() == 1.0
    loss.backward()
    assert logp.grad is not None and logp.grad.tolist() == [[-1.0, 0.0], [0.0, 0.0]]
    assert nll_loss(logp, torch.zeros_like(mask)).item() == 0.0


def test_gradcheck_and_refusal() -> None:
    logp = (-torch.rand(2, 3).double()).requires_grad_()
    mask = torch.tensor([[True, True, False], [True, False, False]])
    weights = torch.rand(2, 3).double()
    assert torch.autograd.gradcheck(lambda x: nll_loss(x, mask, weights), (logp,))
    with pytest.raises(ValueError, match="weights has shape"):
        nll_loss(logp, mask, weights[:, :1])
