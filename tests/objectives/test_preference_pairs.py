"""DPO: identity 1, invariances, an independent formula, gradient checks."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmalign.objectives.preference import dpo_loss, pair_margin, sequence_score, sigmoid_pair_loss


def draw(seed: int) -> dict[str, Tensor]:
    """Three pairs; chosen has 4 columns, rejected 6."""
    generator = torch.Generator().manual_seed(seed)
    out: dict[str, Tensor] = {}
    for name, steps in (("chosen", 4), ("rejected", 6)):
        logp = -torch.rand(3, steps, generator=generator, dtype=torch.float64) * 3
        noise = torch.randn(3, steps, generator=generator, dtype=torch.float64)
        lengths = torch.randint(1, steps + 1, (3, 1), generator=generator)
        out |= {
            f"logp_{name}": logp,
            f"logp_ref_{name}": logp + 0.5 * noise,
            f"mask_{name}": torch.arange(steps) < lengths,
        }
    return out


def test_pair_loss_golden() -> None:
    # margin log 3 at beta 1: sigmoid = 3/4. Plain -log(3/4); smoothed .1: -.9 log(3/4) - .1 log(1/4)
    margin = torch.tensor([math.log(3)], dtype=torch.float64)
    assert sigmoid_pair_loss(margin, 1.0).item() == pytest.approx(math.log(4 / 3), abs=1e-15)
    smoothed = 0.9 * math.log(4 / 3) + 0.1 * math.log(4)
    assert sigmoid_pair_loss(margin, 1.0, 0.1).item() == pytest.approx(smoothed, abs=1e-15)


def test_sequence_score_golden() -> None:
    # real steps: (-1 + 2) + (-3 + 1) = -1, padding ignored
    logp = torch.tensor([[-1.0, -3.0, math.nan]])
    ref = torch.tensor([[-2.0, -1.0, math.inf]])
    assert sequence_score(logp, ref, torch.tensor([[True, True, False]])).item() == -1.0


def test_identity_1_policy_equal_to_reference() -> None:
    d = draw(0)
    for name in ("chosen", "rejected"):
        d[f"logp_ref_{name}"] = d[f"logp_{name}"].clone()
        d[f"logp_{name}"].requires_grad_()
    loss, metrics = dpo_loss(**d, beta=0.3)
    assert loss.item() == pytest.approx(math.log(2), abs=1e-15)
    assert metrics["rewards/margins"].item() == 0.0 and metrics["rewards/accuracies"].item() == 0.0
    gradient = torch.autograd.grad(loss, d["logp_chosen"], retain_graph=True)[0]
    assert torch.allclose(gradient, -0.3 * 0.5 / 3 * d["mask_chosen"].double(), atol=1e-16)
    opposite = torch.autograd.grad(loss, d["logp_rejected"])[0]
    assert torch.allclose(opposite, 0.3 * 0.5 / 3 * d["mask_rejected"].double(), atol=1e-16)


@pytest.mark.parametrize("seed", range(4))
def test_identity_1_gradient_is_minus_beta_sigmoid(seed: int) -> None:
    d = draw(seed)
    d["logp_chosen"].requires_grad_()
    loss, _ = dpo_loss(**d, beta=0.7)
    scores = [
        sequence_score(d[f"logp_{k}"], d[f"logp_ref_{k}"], d[f"mask_{k}"]) for k in ("chosen", "rejected")
    ]
    margin = (scores[0] - scores[1]).detach()
    expected = -0.7 * torch.sigmoid(-0.7 * margin) / 3
    gradient = torch.autograd.grad(loss, d["logp_chosen"])[0]
    assert torch.allclose(gradient, expected[:, None] * d["mask_chosen"], atol=1e-16)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_identity_1_independent_formula(smoothing: float) -> None:
    """Written the other way round: from log-probability sums and ``log(1 + exp)``."""
    d = draw(5)
    total = 0.0
    for i in range(3):
        sums = {
            key: sum(
                d[key][i, t].item()
                for t in range(d[key].shape[1])
                if d["mask_" + key.rsplit("_", 1)[1]][i, t]
            )
            for key in ("logp_chosen", "logp_rejected", "logp_ref_chosen", "logp_ref_rejected")
        }
        policy, reference = (
            sums["logp_chosen"] - sums["logp_rejected"],
            sums["logp_ref_chosen"] - sums["logp_ref_rejected"],
        )
        z = 0.25 * (policy - reference)
        total += (1 - smoothing) * math.log1p(math.exp(-z)) + smoothing * math.log1p(math.exp(z))
    loss, metrics = dpo_loss(**d, beta=0.25, label_smoothing=smoothing)
    assert loss.item() == pytest.approx(total / 3, abs=1e-14)
    gap = metrics["rewards/chosen"] - metrics["rewards/rejected"]
    assert gap.item() == pytest.approx(metrics["rewards/margins"].item(), abs=1e-14)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), shift=st.floats(-20, 20))
def test_a_shift_of_both_log_probabilities_cancels(seed: int, shift: float) -> None:
    d = draw(seed)
    base = dpo_loss(**d)[0].item()
    d["logp_chosen"], d["logp_ref_chosen"] = d["logp_chosen"] + shift, d["logp_ref_chosen"] + shift
    assert dpo_loss(**d)[0].item() == pytest.approx(base, abs=1e-11)


@settings(max_examples=40, deadline=None)
@given(margin=st.floats(-30, 30), beta=st.floats(0.01, 3))
def test_swapping_a_pair_mirrors_the_loss(margin: float, beta: float) -> None:
    m = torch.tensor([margin], dtype=torch.float64)
    difference = sigmoid_pair_loss(-m, beta) - sigmoid_pair_loss(m, beta)
    assert difference.item() == pytest.approx(beta * margin, abs=1e-9)


def test_garbage_in_padding() -> None:
    d = draw(2)
    clean = dpo_loss(**d)[0].item()
    for name in ("chosen", "rejected"):
        for key in (f"logp_{name}", f"logp_ref_{name}"):
            d[key] = d[key].masked_fill(~d[f"mask_{name}"], math.nan)
    assert dpo_loss(**d)[0].item() == clean


def test_gradcheck() -> None:
    d = draw(3)
    leaves = (d.pop("logp_chosen").requires_grad_(), d.pop("logp_rejected").requires_grad_())
    assert torch.autograd.gradcheck(
        lambda a, b: dpo_loss(logp_chosen=a, logp_rejected=b, **d, label_smoothing=0.1)[0], leaves
    )


def test_metrics_report_both_log_probabilities() -> None:
    d = draw(4)
    _, metrics = dpo_loss(**d)
    expected = (d["logp_chosen"] * d["mask_chosen"]).sum(1).mean()
    assert metrics["logps/chosen"].item() == pytest.approx(expected.item(), abs=1e-14)
    assert metrics["logps/rejected"].item() < 0


def test_refusals() -> None:
    with pytest.raises(ValueError, match="beta > 0"):
        sigmoid_pair_loss(torch.zeros(1), 0.0)
    with pytest.raises(ValueError, match="label_smoothing"):
        sigmoid_pair_loss(torch.zeros(1), 0.1, 0.5)
    with pytest.raises(ValueError, match="score_rejected has shape"):
        pair_margin(torch.zeros(2), torch.zeros(3))


def test_the_reference_is_a_constant_and_beta_defaults_to_a_tenth() -> None:
    d = draw(6)
    for value in d.values():
        if value.is_floating_point():
            value.requires_grad_()
    loss, metrics = dpo_loss(**d)
    loss.backward()
    assert d["logp_ref_chosen"].grad is None and d["logp_ref_rejected"].grad is None
    assert loss.item() == dpo_loss(**d, beta=0.1)[0].item()
    assert sigmoid_pair_loss(torch.ones(1)).item() == sigmoid_pair_loss(torch.ones(1), 0.1).item()
    assert not any(metric.requires_grad for metric in metrics.values())
