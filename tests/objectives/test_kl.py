"""KL: identities 7 and 8 (estimators' values and gradients, by exact expectation) and the controller."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmalign.objectives.kl import adaptive_kl_coef, categorical_kl, kl_estimate, kl_loss, kl_penalty

ESTIMATORS = ("k1", "k2", "k3")


def categorical(seed: int, outcomes: int = 6) -> tuple[Tensor, Tensor]:
    """Logits of a policy (a leaf with gradient) and of a reference, far enough apart to matter."""
    generator = torch.Generator().manual_seed(seed)
    theta = (1.5 * torch.randn(outcomes, generator=generator, dtype=torch.float64)).requires_grad_()
    return theta, 1.5 * torch.randn(outcomes, generator=generator, dtype=torch.float64)


def exact_gradients(theta: Tensor, ref: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients in theta of KL(policy || ref) and of KL(ref || policy)."""
    reverse = torch.autograd.grad(categorical_kl(theta, ref), theta)[0]
    forward = torch.autograd.grad(categorical_kl(ref, theta), theta)[0]
    return reverse, forward


def expected_gradient(theta: Tensor, ref: Tensor, estimator: str, ratio: bool) -> Tensor:
    """E over outcomes of the policy of the gradient of the loss-side KL, every outcome enumerated."""
    logp = theta.log_softmax(-1).unsqueeze(0)
    everything = torch.ones_like(logp, dtype=torch.bool)
    per_outcome = kl_loss(logp, ref.log_softmax(-1).unsqueeze(0), everything, estimator, ratio)  # type: ignore[arg-type]
    return torch.autograd.grad((logp.detach().exp() * per_outcome).sum(), theta)[0]


def test_estimator_golden() -> None:
    # d = log(1/2) - log(1/4) = log 2: k1 = .693147, k2 = .240227, k3 = 1/2 - 1 + .693147 = .193147
    logp, ref = torch.tensor([[0.5]]).double().log(), torch.tensor([[0.25]]).double().log()
    values = [kl_estimate(logp, ref, estimator).item() for estimator in ESTIMATORS]
    assert values == pytest.approx([math.log(2), math.log(2) ** 2 / 2, math.log(2) - 0.5], abs=1e-15)


def test_estimator_golden_where_the_policy_is_lower() -> None:
    # d = -log 2: k1 = -.693147, k2 the same as for +log 2, k3 = 2 - 1 - .693147 = .306853
    logp, ref = torch.tensor([[0.25]]).double().log(), torch.tensor([[0.5]]).double().log()
    values = [kl_estimate(logp, ref, estimator).item() for estimator in ESTIMATORS]
    assert values == pytest.approx([-math.log(2), math.log(2) ** 2 / 2, 1 - math.log(2)], abs=1e-15)


def test_categorical_kl_golden() -> None:
    # p = (1/2, 1/2), q = (1/4, 3/4): 1/2 log 2 + 1/2 log(2/3) = .1438410362
    p, q = torch.tensor([0.5, 0.5]).double().log(), torch.tensor([0.25, 0.75]).double().log()
    assert categorical_kl(p, q).item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), abs=1e-15)
    assert categorical_kl(p, p).item() == 0.0


def test_categorical_kl_with_impossible_outcomes() -> None:
    # p = (1, 0) has no mass on the second outcome: KL = log 2 against (1/2, 1/2), and no NaN anywhere
    p = torch.tensor([0.0, -math.inf], dtype=torch.float64, requires_grad=True)
    q = torch.zeros(2, dtype=torch.float64)
    value = categorical_kl(p, q)
    assert value.item() == pytest.approx(math.log(2), abs=1e-15)
    assert categorical_kl(q, torch.tensor([0.0, -math.inf]).double()).item() == math.inf


def test_identity_7_values_under_the_policy() -> None:
    # E k1 = E k3 = KL; E k2 is not; k1 clamped at 0 is biased upwards.
    for seed in range(5):
        theta, ref = categorical(seed)
        logp, logp_ref = theta.detach().log_softmax(-1)[None], ref.log_softmax(-1)[None]
        truth = categorical_kl(theta.detach(), ref).item()
        expected = {e: (logp.exp() * kl_estimate(logp, logp_ref, e)).sum().item() for e in ESTIMATORS}  # type: ignore[arg-type]
        assert expected["k1"] == pytest.approx(truth, abs=1e-14)
        assert expected["k3"] == pytest.approx(truth, abs=1e-14)
        assert kl_estimate(logp, logp_ref, "k3").min() >= 0


def test_identity_7_biased_values_golden() -> None:
    # p = (.9, .1), q = (.2, .8): KL = .9 log 4.5 - .1 log 8 = 1.145726;
    # E k2 = (.9 log(4.5)^2 + .1 log(8)^2) / 2 = 1.234; k1 clamped at 0 leaves .9 log 4.5 = 1.354: too large.
    p, q = torch.tensor([[[0.9, 0.1]], [[0.2, 0.8]]], dtype=torch.float64)
    one, eight = math.log(4.5), math.log(8)
    assert (p * kl_estimate(p.log(), q.log(), "k1")).sum().item() == pytest.approx(
        0.9 * one - 0.1 * eight, abs=1e-14
    )
    second = (0.9 * one**2 + 0.1 * eight**2) / 2
    assert (p * kl_estimate(p.log(), q.log(), "k2")).sum().item() == pytest.approx(second, abs=1e-14)
    clamped = (p * kl_penalty(p.log(), q.log(), "k1").clamp(min=0)).sum().item()
    assert clamped == pytest.approx(0.9 * one, abs=1e-14)
    assert min(clamped, second) > 1.05 * (0.9 * one - 0.1 * eight)


@pytest.mark.parametrize("seed", range(4))
def test_identity_8_exact_gradients(seed: int) -> None:
    theta, ref = categorical(seed)
    reverse, _ = exact_gradients(theta, ref)
    for estimator, ratio in (("k1", True), ("k3", True), ("k2", False)):
        gradient = expected_gradient(theta, ref, estimator, ratio)
        assert torch.allclose(gradient, reverse, atol=1e-14), (estimator, ratio)


@pytest.mark.parametrize("seed", range(4))
def test_identity_8_biased_gradients(seed: int) -> None:
    theta, ref = categorical(seed)
    reverse, forward = exact_gradients(theta, ref)
    plain_k3 = expected_gradient(theta, ref, "k3", False)
    assert torch.allclose(plain_k3, forward, atol=1e-14)
    assert (plain_k3 - reverse).norm() > 0.2 * reverse.norm()
    corrected_k2 = expected_gradient(theta, ref, "k2", True)
    assert (corrected_k2 - reverse).norm() > 0.1 * reverse.norm()


def test_identity_8_plain_k1_expects_no_gradient_and_is_refused() -> None:
    theta, ref = categorical(0)
    logp = theta.log_softmax(-1).unsqueeze(0)
    loss = (logp.detach().exp() * kl_estimate(logp, ref.log_softmax(-1).unsqueeze(0), "k1")).sum()
    assert torch.autograd.grad(loss, theta)[0].abs().max().item() < 1e-15
    with pytest.raises(ValueError, match="expected gradient of 0"):
        expected_gradient(theta, ref, "k1", False)


@pytest.mark.parametrize("seed", range(4))
def test_identity_8_reward_side_k1_with_reinforce(seed: int) -> None:
    theta, ref = categorical(seed)
    reverse, _ = exact_gradients(theta, ref)
    logp = theta.log_softmax(-1).unsqueeze(0)
    penalty = kl_penalty(logp, ref.log_softmax(-1).unsqueeze(0), "k1")
    assert not penalty.requires_grad
    gradient = torch.autograd.grad((logp.detach().exp() * logp * penalty).sum(), theta)[0]
    assert torch.allclose(gradient, reverse, atol=1e-14)


def test_identity_8_off_policy_ratio_reweights_the_sampler() -> None:
    # Samples from an old policy: sum_a old(a) * ratio(a) * k(a) = E under the policy now, value and gradient.
    theta, ref = categorical(2)
    old, _ = categorical(9)
    logp_old = old.detach().log_softmax(-1)[None]
    everything = torch.ones_like(logp_old, dtype=torch.bool)
    reverse, _ = exact_gradients(theta, ref)
    for estimator in ("k1", "k3"):
        logp = theta.log_softmax(-1)[None]
        loss = kl_loss(logp, ref.log_softmax(-1)[None], everything, estimator, True, logp_old)  # type: ignore[arg-type]
        value = (logp_old.exp() * loss).sum()
        assert value.item() == pytest.approx(categorical_kl(theta, ref).item(), abs=1e-13)
        assert torch.allclose(torch.autograd.grad(value, theta)[0], reverse, atol=1e-13)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_k3_and_k2_are_never_negative_and_zero_at_equality(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logp = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    ref = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    for estimator in ("k2", "k3"):
        assert (kl_estimate(logp, ref, estimator) >= 0).all()  # type: ignore[arg-type]
        assert kl_estimate(logp, logp, estimator).abs().max().item() == 0.0  # type: ignore[arg-type]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gradcheck(estimator: str) -> None:
    generator = torch.Generator().manual_seed(5)
    logp = torch.randn(2, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    ref, old = torch.randn(2, 2, 3, generator=generator, dtype=torch.float64)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert torch.autograd.gradcheck(lambda x: kl_loss(x, ref, mask, estimator, True, old), (logp,))  # type: ignore[arg-type]


@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_garbage_under_the_mask(estimator: str, garbage: float) -> None:
    mask = torch.tensor([[True, False]])
    logp = torch.tensor([[-1.0, garbage]], requires_grad=True)
    value = kl_loss(logp, torch.tensor([[-2.0, garbage]]), mask, estimator, True)  # type: ignore[arg-type]
    assert value[0, 1].item() == 0.0
    value.sum().backward()
    assert logp.grad is not None and torch.isfinite(logp.grad).all() and logp.grad[0, 1].item() == 0.0


def test_reference_and_sampler_get_no_gradient() -> None:
    logp, ref, old = (torch.randn(1, 3, requires_grad=True) for _ in range(3))
    kl_loss(logp, ref, torch.ones(1, 3, dtype=torch.bool), "k3", True, old).sum().backward()
    assert logp.grad is not None and ref.grad is None and old.grad is None


def test_refusals() -> None:
    x = torch.zeros(1, 2)
    with pytest.raises(ValueError, match="k4"):
        kl_estimate(x, x, "k4")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="logp_ref has shape"):
        kl_penalty(x, x[:, :1])
    with pytest.raises(ValueError, match="logits_q"):
        categorical_kl(x, x[:, :1])


def test_adaptive_coefficient_golden() -> None:
    # twice the target: error clipped at +.2, n/horizon = 1/10: .1 * 1.02; half: .1 * .98; 10 % above: 1.01
    assert adaptive_kl_coef(0.1, 12.0, 6.0, 1000, 100) == pytest.approx(0.102, abs=1e-15)
    assert adaptive_kl_coef(0.1, 3.0, 6.0, 1000, 100) == pytest.approx(0.098, abs=1e-15)
    assert adaptive_kl_coef(0.1, 6.6, 6.0, 1000, 100) == pytest.approx(0.101, abs=1e-15)
    assert adaptive_kl_coef(0.1, 6.0, 6.0, 1000, 100) == 0.1


def test_adaptive_coefficient_refusals() -> None:
    for arguments in (
        (0.1, math.nan, 6, 100, 1),
        (0.1, 1, 0, 100, 1),
        (0.1, 1, 6, 100, 500),
        (-1, 1, 6, 100, 1),
    ):
        with pytest.raises(ValueError, match="KL coefficient|need target"):
            adaptive_kl_coef(*arguments)


def test_penalty_is_a_constant_of_both_models() -> None:
    logp, ref = (torch.randn(1, 3, requires_grad=True) for _ in range(2))
    assert not kl_penalty(logp, ref, "k3").requires_grad


def test_adaptive_coefficient_at_its_limits() -> None:
    assert adaptive_kl_coef(0.0, 12.0, 6.0, 100, 10) == 0.0
    assert adaptive_kl_coef(0.1, 12.0, 6.0, 100, 0) == 0.1
    assert adaptive_kl_coef(0.1, 0.0, 6.0, 100, 499) == pytest.approx(0.1 * 0.002)
    with pytest.raises(ValueError, match="need target"):
        adaptive_kl_coef(0.1, 1.0, 6.0, 0, 0)
