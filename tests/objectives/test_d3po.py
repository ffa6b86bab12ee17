"""D3PO's loss against a loop, its cap, its dead zones, and what a tie teaches."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmalign.objectives.d3po import d3po_floor, d3po_loss
from mmalign.objectives.preference import sigmoid_pair_loss

NAMES = (
    "chosen_logp",
    "chosen_ref_logp",
    "chosen_mask",
    "rejected_logp",
    "rejected_ref_logp",
    "rejected_mask",
)


def drawn(seed: int = 0, spread: float = 0.08) -> dict[str, Any]:
    g = torch.Generator().manual_seed(seed)
    made: dict[str, Any] = {}
    for side, width, lengths in (("chosen", 4, (4, 2, 3)), ("rejected", 5, (5, 3, 1))):
        ref = torch.randn(3, width, generator=g, dtype=torch.float64)
        made[f"{side}_ref_logp"] = ref
        made[f"{side}_logp"] = ref + spread * torch.randn(3, width, generator=g, dtype=torch.float64)
        made[f"{side}_mask"] = torch.arange(width) < torch.tensor(lengths)[:, None]
    return {name: made[name] for name in NAMES}


def loop(d: dict[str, Any], beta: float, clip: float | None, h: list[float]) -> float:
    losses = []
    for b in range(3):
        for t in range(4):
            if not (d["chosen_mask"][b, t] and d["rejected_mask"][b, t]):
                continue
            logs = []
            for side in ("chosen", "rejected"):
                rho = np.exp(float(d[f"{side}_logp"][b, t]) - float(d[f"{side}_ref_logp"][b, t]))
                logs.append(np.log(rho if clip is None else np.clip(rho, 1 - clip, 1 + clip)))
            losses.append(-np.log(1 / (1 + np.exp(-beta * h[b] * (logs[0] - logs[1])))))
    return float(np.mean(losses))


@pytest.mark.parametrize("clip", [None, 0.05, 0.1])
@pytest.mark.parametrize("beta", [0.1, 10.0])
def test_loss_is_the_loop(beta: float, clip: float | None) -> None:
    d, h = drawn(), [1.0, -1.0, 0.0]
    value, _ = d3po_loss(**d, beta=beta, clip=clip, preference=torch.tensor(h))
    assert float(value) == pytest.approx(loop(d, beta, clip, h), abs=1e-12)


def test_gradient_is_right_where_nothing_is_clipped() -> None:
    d = drawn(spread=0.02)
    d["chosen_logp"].requires_grad_(), d["rejected_logp"].requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a, b: d3po_loss(**(d | {"chosen_logp": a, "rejected_logp": b}), beta=3.0)[0],
        (d["chosen_logp"], d["rejected_logp"]),
    )


def test_at_the_reference_it_is_log_2_with_a_gradient_and_a_tie_has_none() -> None:
    d = drawn(spread=0.0)
    d["chosen_logp"].requires_grad_()
    value, metrics = d3po_loss(**d, beta=0.1)
    value.backward()
    n = int((d["chosen_mask"] & d["rejected_mask"][:, :4]).sum())
    assert float(value) == pytest.approx(math.log(2)) and float(metrics["rewards/accuracies"]) == 0.5
    assert float(d["chosen_logp"].grad.sum()) == pytest.approx(-0.1 / 2)
    assert float(d["chosen_logp"].grad[0, 0]) == pytest.approx(-0.1 / 2 / n)
    tie = drawn()
    tie["chosen_logp"].requires_grad_()
    value, _ = d3po_loss(**tie, preference=torch.zeros(3))
    value.backward()
    assert float(value) == pytest.approx(math.log(2)) and not tie["chosen_logp"].grad.any()


def test_turning_a_pair_round_is_exchanging_its_sides() -> None:
    d = drawn()
    swapped = {
        name: d[("rejected" if name.startswith("chosen") else "chosen") + name[name.index("_") :]]
        for name in NAMES
    }
    turned, _ = d3po_loss(**d, preference=-torch.ones(3))
    assert float(turned) == pytest.approx(float(d3po_loss(**swapped)[0]), abs=1e-14)


@pytest.mark.parametrize(("beta", "floor"), [(0.1, 0.6832), (10.0, 0.1261)])
def test_no_policy_gets_below_the_floor(beta: float, floor: float) -> None:
    assert d3po_floor(beta, 0.1) == pytest.approx(floor, abs=5e-5)
    ones, mask = torch.ones(1, 2), torch.ones(1, 2, dtype=torch.bool)
    far, metrics = d3po_loss(9 * ones, ones, mask, -9 * ones, ones, mask, beta=beta)
    assert float(far) == pytest.approx(d3po_floor(beta, 0.1)) and float(metrics["d3po/clipped"]) == 1.0
    assert d3po_floor(beta, None) == 0.0


def test_a_clipped_ratio_has_no_gradient_even_when_it_is_wrong() -> None:
    mask = torch.ones(1, 1, dtype=torch.bool)
    wrong = torch.tensor([[-2.0]], requires_grad=True)
    zero = torch.zeros(1, 1)
    d3po_loss(wrong, zero, mask, zero, zero, mask)[0].backward()
    assert wrong.grad is not None and float(wrong.grad) == 0.0
    d3po_loss(wrong, zero, mask, zero, zero, mask, clip=None)[0].backward()
    assert float(wrong.grad) < 0.0


def test_one_step_without_clip_is_dpo() -> None:
    d = {name: value[:, :1] for name, value in drawn().items()}
    value, _ = d3po_loss(**d, beta=0.7, clip=None)
    gap = (d["chosen_logp"] - d["chosen_ref_logp"] - d["rejected_logp"] + d["rejected_ref_logp"])[:, 0]
    assert float(value) == pytest.approx(float(sigmoid_pair_loss(gap, 0.7).mean()), abs=1e-12)


def test_padding_is_nothing_and_bad_numbers_are_refused() -> None:
    d = drawn()
    poisoned: dict[str, Tensor] = dict(d)
    for side in ("chosen", "rejected"):
        for name in (f"{side}_logp", f"{side}_ref_logp"):
            poisoned[name] = torch.where(d[f"{side}_mask"], d[name], float("nan"))
    assert float(d3po_loss(**poisoned)[0]) == float(d3po_loss(**d)[0])
    for bad in ({"beta": 0.0}, {"clip": 1.0}, {"clip": 0.0}, {"preference": torch.ones(2)}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            d3po_loss(**d, **bad)
