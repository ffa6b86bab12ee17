"""Reward-model losses: segment classes and Bradley-Terry pairs."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from mmalign.objectives.preference import sigmoid_pair_loss
from mmalign.objectives.reward_model import bradley_terry, segment_cross_entropy


def test_segment_golden() -> None:
    # column order is hallucinated, not applicable, right: softmax rows (.5, .25, .25) and (.1, .1, .8)
    logits = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [0.3, 0.3, 0.4]], dtype=torch.float64).log()
    labels = torch.tensor([-1, 1, -100])
    expected = -(math.log(0.5) + math.log(0.8)) / 2
    assert segment_cross_entropy(logits, labels).item() == pytest.approx(expected, abs=1e-15)
    assert segment_cross_entropy(logits[:1], torch.tensor([0])).item() == pytest.approx(
        math.log(4), abs=1e-15
    )


def test_segment_class_weights_golden() -> None:
    # weights 3 for class -1, 1 for +1: (3 * -log .5 + -log .8) / 4
    logits = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], dtype=torch.float64).log()
    weights = torch.tensor([3.0, 1.0, 1.0], dtype=torch.float64)
    loss = segment_cross_entropy(logits, torch.tensor([-1, 1]), class_weights=weights)
    assert loss.item() == pytest.approx((-3 * math.log(0.5) - math.log(0.8)) / 4, abs=1e-15)


def test_segment_all_ignored_is_zero_with_zero_gradient() -> None:
    logits = torch.randn(2, 3, requires_grad=True)
    loss = segment_cross_entropy(logits, torch.tensor([7, 7]), ignore=7)
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None and logits.grad.abs().max().item() == 0.0


def test_segment_ignored_rows_may_hold_garbage() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0], [math.nan, math.inf, 0.0]], requires_grad=True)
    loss = segment_cross_entropy(logits, torch.tensor([1, -100]))
    loss.backward()
    assert torch.isfinite(loss) and logits.grad is not None and torch.isfinite(logits.grad).all()


def test_segment_refusals() -> None:
    logits = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="label 2 in row 1"):
        segment_cross_entropy(logits, torch.tensor([0, 2]))
    with pytest.raises(ValueError, match="expected logits"):
        segment_cross_entropy(torch.zeros(2, 2), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="integer labels"):
        segment_cross_entropy(logits, torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match="ignore must differ"):
        segment_cross_entropy(logits, torch.tensor([0, 1]), ignore=0)


def test_bradley_terry_golden() -> None:
    # gap log 3: -log sigmoid(log 3) = log(4/3); margin log 3 takes it back to log 2;
    # centering .1 adds .1 * (log 3 + 0)^2
    chosen, rejected = torch.tensor([math.log(3)], dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    assert bradley_terry(chosen, rejected).item() == pytest.approx(math.log(4 / 3), abs=1e-15)
    assert bradley_terry(chosen, rejected, margin=chosen).item() == pytest.approx(math.log(2), abs=1e-15)
    centred = bradley_terry(chosen, rejected, centering=0.1).item()
    assert centred == pytest.approx(math.log(4 / 3) + 0.1 * math.log(3) ** 2, abs=1e-15)


def test_identity_2_bradley_terry_is_dpo_at_beta_one() -> None:
    chosen, rejected = torch.randn(2, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert (
        bradley_terry(chosen, rejected).item() == sigmoid_pair_loss(chosen - rejected, beta=1.0).mean().item()
    )


def test_identity_2_a_constant_per_prompt_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(1)
    chosen, rejected, shift = torch.randn(3, 9, generator=generator, dtype=torch.float64)
    base = bradley_terry(chosen, rejected).item()
    assert bradley_terry(chosen + shift, rejected + shift).item() == pytest.approx(base, abs=1e-14)
    assert bradley_terry(chosen + shift, rejected + shift, centering=0.1).item() != pytest.approx(
        base, abs=1e-3
    )


def test_gradcheck_and_torch_parity() -> None:
    generator = torch.Generator().manual_seed(2)
    chosen, rejected, margin = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    chosen.requires_grad_(), rejected.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: bradley_terry(a, b, margin, 0.01), (chosen, rejected))
    logits = torch.randn(6, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([-1, 0, 1, 1, -100, -1])
    assert torch.autograd.gradcheck(lambda x: segment_cross_entropy(x, labels), (logits,))
    shifted = torch.where(labels == -100, labels, labels + 1)
    assert segment_cross_entropy(logits, labels).item() == functional.cross_entropy(logits, shifted).item()


def test_bradley_terry_refuses_unequal_batches() -> None:
    with pytest.raises(ValueError, match="rejected has shape"):
        bradley_terry(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="margin has shape"):
        bradley_terry(torch.zeros(2), torch.zeros(2), margin=torch.zeros(3))


def test_centering_is_on_the_sum_of_both_scores() -> None:
    # scores 1 and 3: gap -2, sum 4: log(1 + e^2) + .5 * 16
    loss = bradley_terry(torch.tensor([1.0]).double(), torch.tensor([3.0]).double(), centering=0.5)
    assert loss.item() == pytest.approx(math.log1p(math.exp(2)) + 8.0, abs=1e-14)
