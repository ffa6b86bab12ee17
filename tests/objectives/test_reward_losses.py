"""Reward-model losses: segment classes and Bradley-Terry pairs."""

from __future__ import annotations

import math
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional
from trl.trainer.reward_trainer import RewardTrainer

from mmalign.objectives.preference import sigmoid_pair_loss
from mmalign.objectives.reward_model import (
    anchor_penalty,
    bradley_terry,
    comparisons,
    lower_confidence,
    pairwise_preference,
    plackett_luce,
    segment_cross_entropy,
)


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


def plackett_luce_by_hand(scores: list[float], worth: list[float]) -> float:
    """Draw the ranking position by position: each is the best of itself and what is worth less."""
    terms = []
    for i, own in enumerate(scores):
        rivals = [s for s, w in zip(scores, worth, strict=True) if w < worth[i]]
        if rivals:
            terms.append(-own + math.log(sum(math.exp(s) for s in [own, *rivals])))
    return sum(terms) / len(terms) if terms else 0.0


def test_plackett_luce_golden() -> None:
    # ranking (1, 2, 3) of scores log 2, log 1, log 1: -log(2/4) - log(1/2), over two positions
    scores = torch.tensor([[math.log(2), 0.0, 0.0]], dtype=torch.float64)
    worth = torch.tensor([[3.0, 2.0, 1.0]], dtype=torch.float64)
    assert plackett_luce(scores, worth).item() == pytest.approx(math.log(2), abs=1e-15)


def test_plackett_luce_equals_a_plain_loop_with_ties_and_padding() -> None:
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    worth = torch.randint(0, 3, (6, 5), generator=generator).double()
    worth[4] = 1.0  # all tied: no position, not counted
    lengths = [5, 4, 3, 5, 5, 2]
    mask = torch.arange(5) < torch.tensor(lengths)[:, None]
    rows = [
        plackett_luce_by_hand(scores[b, :n].tolist(), worth[b, :n].tolist()) for b, n in enumerate(lengths)
    ]
    counted = [
        row
        for row, (b, n) in zip(rows, enumerate(lengths), strict=True)
        if len(set(worth[b, :n].tolist())) > 1
    ]
    garbage = torch.where(mask, scores, torch.full_like(scores, math.nan))
    assert plackett_luce(garbage, worth, mask).item() == pytest.approx(sum(counted) / len(counted), abs=1e-12)


def test_plackett_luce_of_two_is_bradley_terry_and_shift_invariant() -> None:
    generator = torch.Generator().manual_seed(4)
    scores = torch.randn(7, 2, generator=generator, dtype=torch.float64)
    worth = torch.tensor([[1.0, 0.0]]).double().expand(7, 2)
    assert plackett_luce(scores, worth).item() == pytest.approx(
        bradley_terry(scores[:, 0], scores[:, 1]).item()
    )
    shift = torch.randn(7, 1, generator=generator, dtype=torch.float64)
    assert plackett_luce(scores + shift, worth).item() == pytest.approx(plackett_luce(scores, worth).item())


def test_plackett_luce_gradient() -> None:
    generator = torch.Generator().manual_seed(5)
    scores = torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    worth = torch.tensor([[3.0, 2.0, 1.0, 0.0], [1.0, 1.0, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0]]).double()
    mask = torch.tensor([[True] * 4, [True, True, True, False], [True] * 4])
    assert torch.autograd.gradcheck(lambda s: plackett_luce(s, worth, mask), (scores,))
    tied = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    loss = plackett_luce(tied, torch.zeros(1, 3).double())
    loss.backward()
    assert loss.item() == 0.0 and tied.grad is not None and tied.grad.abs().max().item() == 0.0


def test_comparisons_are_every_pair_in_order_and_weigh_prompts_equally() -> None:
    worth = torch.tensor([[2.0, 0.0, 1.0], [1.0, 1.0, 5.0], [0.0, 0.0, 0.0]])
    mask = torch.tensor([[True, True, True], [True, True, False], [True, True, True]])
    row, better, worse, weight = comparisons(worth, mask)
    assert list(zip(row.tolist(), better.tolist(), worse.tolist(), strict=True)) == [
        (0, 0, 1),
        (0, 0, 2),
        (0, 2, 1),
    ]
    assert weight.tolist() == pytest.approx([1 / 3] * 3)
    with pytest.raises(ValueError, match="not finite"):
        comparisons(torch.tensor([[math.nan, 0.0]]))
    with pytest.raises(ValueError, match="mask has shape"):
        comparisons(worth, mask[:, :2])


def test_bradley_terry_weights_golden() -> None:
    # gaps log 3 and 0 with weights 1 and 3: (log(4/3) + 3 log 2) / 4
    chosen = torch.tensor([math.log(3), 0.0], dtype=torch.float64)
    weight = torch.tensor([1.0, 3.0], dtype=torch.float64)
    loss = bradley_terry(chosen, torch.zeros_like(chosen), weight=weight)
    assert loss.item() == pytest.approx((math.log(4 / 3) + 3 * math.log(2)) / 4, abs=1e-15)


def test_pairwise_preference_golden_and_gradient() -> None:
    # logit log 3 is P = 3/4; with a tenth of the labels wrong: -.9 log .75 - .1 log .25
    logits = torch.tensor([math.log(3)], dtype=torch.float64, requires_grad=True)
    assert pairwise_preference(logits).item() == pytest.approx(-math.log(0.75), abs=1e-15)
    smooth = pairwise_preference(logits, label_smoothing=0.1).item()
    assert smooth == pytest.approx(-0.9 * math.log(0.75) - 0.1 * math.log(0.25), abs=1e-15)
    half = torch.tensor([0.5], dtype=torch.float64)
    assert pairwise_preference(logits, half).item() == pytest.approx(-0.5 * math.log(0.75 * 0.25), abs=1e-15)
    assert torch.autograd.gradcheck(lambda x: pairwise_preference(x, half, half), (logits,))
    with pytest.raises(ValueError, match="probabilities"):
        pairwise_preference(logits, half * 3)
    with pytest.raises(ValueError, match="label_smoothing"):
        pairwise_preference(logits, label_smoothing=0.5)


def test_pairwise_preference_of_a_score_gap_is_bradley_terry() -> None:
    chosen, rejected = torch.randn(2, 9, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    assert pairwise_preference(chosen - rejected).item() == pytest.approx(
        bradley_terry(chosen, rejected).item()
    )


def test_anchor_fixes_the_offset_that_pairs_leave_open() -> None:
    # errors 0.5 and 2 with a band of 1: (0 + 1) / 2
    scores, target = torch.tensor([1.5, 3.0]).double(), torch.ones(2).double()
    assert anchor_penalty(scores, target, 1.0).item() == pytest.approx(0.5, abs=1e-15)
    learned = torch.tensor([10.0, 9.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([learned], lr=0.5)
    for _ in range(200):
        optimizer.zero_grad()
        pairs = bradley_terry(learned[:1], learned[1:])
        (pairs + anchor_penalty(learned, torch.tensor([1.0, 0.0]).double(), 0.5)).backward()
        optimizer.step()
    assert (learned.detach() - torch.tensor([1.0, 0.0]).double()).abs().max() < 1.0 and learned[0] > learned[
        1
    ]
    with pytest.raises(ValueError, match="eps"):
        anchor_penalty(scores, target, -1.0)


def test_lower_confidence_golden() -> None:
    # members 1 and 3: mean 2, population standard deviation 1
    mean, spread, low = lower_confidence(torch.tensor([[1.0, 5.0], [3.0, 5.0]]), k=2.0)
    assert mean.tolist() == [2.0, 5.0] and spread.tolist() == [1.0, 0.0] and low.tolist() == [0.0, 5.0]
    assert lower_confidence(torch.ones(1, 2), 3.0)[1].tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="k"):
        lower_confidence(torch.ones(2, 2), -1.0)


class TrlModel(torch.nn.Module):
    """Stands for TRL's sequence classifier: its logits are the test's scores, chosen first."""

    def __init__(self, scores: torch.Tensor) -> None:
        super().__init__()
        self.scores = scores

    def forward(self, **inputs: object) -> SimpleNamespace:
        return SimpleNamespace(logits=self.scores[:, None])


@pytest.mark.parametrize("margin", [False, True])
@pytest.mark.parametrize("centering", [None, 0.01])
def test_bradley_terry_equals_trl(margin: bool, centering: float | None) -> None:
    generator = torch.Generator().manual_seed(7)
    scores = torch.randn(12, generator=generator, dtype=torch.float64)
    margins = torch.rand(6, generator=generator, dtype=torch.float64) if margin else None
    theirs, ours = (scores.clone().requires_grad_() for _ in range(2))
    same = SimpleNamespace(gather=lambda x: x, gather_for_metrics=lambda x: x)
    trainer = SimpleNamespace(
        model=torch.nn.Identity(),
        args=SimpleNamespace(center_rewards_coefficient=centering),
        accelerator=same,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
    )
    inputs: dict[str, object] = {"attention_mask": torch.ones(12, 3)}
    if margins is not None:
        inputs["margin"] = margins
    expected = RewardTrainer.compute_loss(trainer, TrlModel(theirs), inputs)
    loss = bradley_terry(ours[:6], ours[6:], margins, centering or 0.0)
    expected.backward(), loss.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-12)
    assert theirs.grad is not None and torch.allclose(ours.grad, theirs.grad, atol=1e-12)  # type: ignore[arg-type]
