"""KTO and BCO: plain floats, balance, reference point; TRL's trainer is in test_trl_preference."""

from __future__ import annotations

import math

import pytest
import torch

from mmalign.objectives.unpaired import bco_loss, bco_shift, kto_kl, kto_loss

MASK = torch.tensor([[True, True], [True, False], [True, True]])
LOGP = torch.tensor([[-1.0, -0.5], [-2.0, math.nan], [-0.2, -0.3]], dtype=torch.float64)
REF = torch.tensor([[-1.5, -1.0], [-1.0, math.nan], [-0.2, -0.3]], dtype=torch.float64)
GOOD = torch.tensor([True, False, True])
SCORES = (1.0, -1.0, 0.0)


def sig(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_kto_against_plain_floats() -> None:
    loss, metrics = kto_loss(
        LOGP, REF, MASK, GOOD, kl=0.25, beta=0.5, desirable_weight=1.5, undesirable_weight=2.0
    )
    parts = [
        1.5 * (1 - sig(0.5 * (SCORES[0] - 0.25))),
        2.0 * (1 - sig(-0.5 * (SCORES[1] - 0.25))),
        1.5 * (1 - sig(0.5 * (SCORES[2] - 0.25))),
    ]
    assert loss.item() == pytest.approx(sum(parts) / 3, abs=1e-12)
    assert (
        metrics["rewards/chosen"].item() == pytest.approx(0.25) and metrics["rewards/rejected"].item() == -0.5
    )


def test_unpaired_apo_has_no_reference_point() -> None:
    one = kto_loss(LOGP, REF, MASK, GOOD, kl=5.0, loss_type="apo_zero_unpaired")[0]
    other = kto_loss(LOGP, REF, MASK, GOOD, kl=0.0)[0]
    assert one.item() == other.item()


def test_reference_point_is_never_negative() -> None:
    assert kto_kl(LOGP, REF, MASK).item() == 0.0
    assert kto_kl(LOGP + 1.0, REF, MASK).item() == pytest.approx((3.0 + 0.0 + 2.0) / 3)


def test_gradients() -> None:
    logp = LOGP.nan_to_num(0.0).requires_grad_()
    ref = REF.nan_to_num(0.0)
    assert torch.autograd.gradcheck(lambda x: kto_loss(x, ref, MASK, GOOD, 0.3)[0], (logp,))
    assert torch.autograd.gradcheck(lambda x: bco_loss(x, ref, MASK, GOOD, 0.1)[0], (logp,))
    gradient = torch.autograd.grad(kto_loss(logp, ref, MASK, GOOD)[0], logp)[0]
    assert (gradient[GOOD] < 0).all() and gradient[1, 0] > 0 and gradient[1, 1] == 0


def test_bco_against_plain_floats_and_its_shift() -> None:
    loss, _ = bco_loss(LOGP, REF, MASK, GOOD, shift=0.2, beta=0.5)
    terms = [math.log(sig(0.3)), math.log(sig(0.7)), math.log(sig(-0.2))]
    assert loss.item() == pytest.approx(-sum(terms) / 3, abs=1e-12)
    good, bad = torch.tensor([1.0, 3.0]), torch.tensor([-1.0])
    assert bco_shift(good, bad, None) == 0.5
    assert bco_shift(good, bad, 1.5, momentum=0.9) == pytest.approx(1.4)
    assert bco_shift(good, torch.tensor([]), None) == 2.0


def test_a_label_of_the_wrong_kind_is_named() -> None:
    with pytest.raises(ValueError, match="desirable must be boolean"):
        kto_loss(LOGP, REF, MASK, torch.tensor([1, 0, 1]))
