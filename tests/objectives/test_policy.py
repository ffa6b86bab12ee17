"""Policy losses: hand-derived numbers, identity 6, gradient checks, garbage, refusals."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mmalign.objectives.policy import (
    aggregate,
    entropy_bonus,
    grpo_loss,
    ppo_policy_loss,
    ppo_value_loss,
    rloo_loss,
)


def one(*values: float) -> Tensor:
    """A ``[1, T]`` float64 row."""
    return torch.tensor([list(values)], dtype=torch.float64)


def every(x: Tensor) -> Tensor:
    return torch.ones_like(x, dtype=torch.bool)


def draw(seed: int, batch: int = 4, steps: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """logp (leaf), logp_old, logp_ref, advantages and a left-aligned mask; many ratios get clipped."""
    generator = torch.Generator().manual_seed(seed)
    base, noise, other, advantages = torch.randn(4, batch, steps, generator=generator, dtype=torch.float64)
    logp = (-base.abs() - 0.5).requires_grad_()
    mask = torch.arange(steps) < torch.randint(1, steps + 1, (batch, 1), generator=generator)
    return logp, logp.detach() + 0.3 * noise, logp.detach() + 0.5 * other, advantages, mask


def test_ppo_golden() -> None:
    # ratios 1.5, .5, 1.5, .5 with A = 1, 1, -1, -1 and e = .2:
    # -min(1.5, 1.2) = -1.2; -min(.5, .8) = -.5; -min(-1.5, -1.2) = 1.5; -min(-.5, -.8) = .8; mean .15
    ratio, advantages = one(1.5, 0.5, 1.5, 0.5), one(1, 1, -1, -1)
    loss, metrics = ppo_policy_loss(ratio.log(), torch.zeros_like(ratio), advantages, every(ratio))
    assert loss.item() == pytest.approx((-1.2 - 0.5 + 1.5 + 0.8) / 4, abs=1e-15)
    assert metrics["clip_ratio"].item() == 0.5
    assert metrics["clip_ratio/low"].item() == 0.25 and metrics["clip_ratio/high"].item() == 0.25
    assert metrics["ratio/max"].item() == pytest.approx(1.5)
    # approx_kl = mean(ratio - 1 - log ratio) = (2 (.5 - log 1.5) + 2 (-.5 - log .5)) / 4
    expected = (2 * (0.5 - math.log(1.5)) + 2 * (-0.5 + math.log(2))) / 4
    assert metrics["approx_kl"].item() == pytest.approx(expected, abs=1e-15)


def test_asymmetric_and_dual_clip_golden() -> None:
    # high .28: -min(1.5, 1.28) = -1.28; A = -1, ratio 5: 5 without, 3 with dual clip 3
    ratio, advantages = one(1.5, 5.0), one(1, -1)
    zeros = torch.zeros_like(ratio)
    loss, _ = ppo_policy_loss(ratio.log(), zeros, advantages, every(ratio), 0.2, 0.28)
    assert loss.item() == pytest.approx((-1.28 + 5.0) / 2, abs=1e-14)
    dual, _ = ppo_policy_loss(ratio.log(), zeros, advantages, every(ratio), 0.2, 0.28, dual_clip=3.0)
    assert dual.item() == pytest.approx((-1.28 + 3.0) / 2, abs=1e-14)


def test_identity_6_first_step_is_the_policy_gradient() -> None:
    logp, _, _, advantages, mask = draw(0)
    loss, metrics = ppo_policy_loss(logp, logp.detach(), advantages, mask)
    gradient = torch.autograd.grad(loss, logp)[0]
    assert torch.allclose(gradient, -(advantages * mask) / mask.sum(), atol=1e-16)
    assert metrics["clip_ratio"].item() == 0.0 and metrics["approx_kl"].item() == 0.0


@pytest.mark.parametrize("advantage", [-1.0, 1.0])
@pytest.mark.parametrize("ratio", [0.5, 0.79, 0.81, 1.0, 1.19, 1.21, 2.0])
def test_identity_6_where_the_gradient_vanishes(advantage: float, ratio: float) -> None:
    logp = one(math.log(ratio)).requires_grad_()
    loss, _ = ppo_policy_loss(logp, one(0.0), one(advantage), every(logp), 0.2)
    gradient = torch.autograd.grad(loss, logp)[0].item()
    dead = (advantage > 0 and ratio > 1.2) or (advantage < 0 and ratio < 0.8)
    assert gradient == pytest.approx(0.0 if dead else -advantage * ratio, abs=1e-15)


def test_dual_clip_stops_the_gradient_of_a_hopeless_ratio() -> None:
    logp = one(math.log(5.0)).requires_grad_()
    loss, _ = ppo_policy_loss(logp, one(0.0), one(-1.0), every(logp), dual_clip=3.0)
    assert torch.autograd.grad(loss, logp)[0].item() == 0.0


def test_value_golden() -> None:
    # R = 1, old = 0, c = .2. V = .1: (.9)^2 = .81, clipped the same; V = .5: .25 against (.2 - 1)^2 = .64
    # V = 2, R = 1, old = 2.5: 1 against (2.3 - 1)^2 = 1.69. Loss = (.81 + .64 + 1.69) / 2 / 3
    values = one(0.1, 0.5, 2.0).requires_grad_()
    loss, metrics = ppo_value_loss(values, one(0.0, 0.0, 2.5), one(1.0, 1.0, 1.0), every(values), 0.2)
    assert loss.item() == pytest.approx((0.81 + 0.64 + 1.69) / 6, abs=1e-14)
    assert metrics["value/clip_ratio"].item() == pytest.approx(2 / 3)
    # the clipped branch is flat: only the first step has a gradient, (V - R) / 3
    assert torch.autograd.grad(loss, values)[0][0].tolist() == pytest.approx([-0.3, 0.0, 0.0], abs=1e-15)
    plain, _ = ppo_value_loss(values, one(0.0, 0.0, 2.5), one(1.0, 1.0, 1.0), every(values), None)
    assert plain.item() == pytest.approx((0.81 + 0.25 + 1.0) / 6, abs=1e-14)


def test_explained_variance() -> None:
    returns, values = one(1.0, 2.0, 3.0, 6.0), one(1.0, 2.0, 3.0, 5.0)
    # residual (0, 0, 0, 1): variance 3/16; returns: 3.5: 1 - .1875/3.5
    _, metrics = ppo_value_loss(values, values, returns, every(values))
    assert metrics["value/explained_variance"].item() == pytest.approx(1 - 0.1875 / 3.5)
    _, constant = ppo_value_loss(values, values, one(2.0, 2.0, 2.0, 2.0), every(values))
    assert constant["value/explained_variance"].item() == 0.0
    assert metrics["value/mean"].item() == 2.75


@pytest.mark.parametrize("seed", range(3))
def test_gradcheck(seed: int) -> None:
    logp, old, ref, advantages, mask = draw(seed)
    check = torch.autograd.gradcheck
    assert check(lambda x: ppo_policy_loss(x, old, advantages, mask, 0.2, 0.28, 1.5)[0], (logp,))
    assert check(lambda x: ppo_value_loss(x, old, advantages, mask, 0.1)[0], (logp,))
    assert check(lambda x: rloo_loss(x, old, advantages[:, 0], mask)[0], (logp,))
    assert check(lambda x: entropy_bonus(x, mask, 0.1)[0], (logp,))
    for loss_type in ("dapo", "grpo", "bnpo", "dr_grpo"):
        for correct in (True, False):
            assert check(
                lambda x, kind=loss_type, flag=correct: grpo_loss(
                    x,
                    old,
                    advantages,
                    mask,
                    kind,
                    beta=0.1,
                    logp_ref=ref,
                    use_bias_correction_kl=flag,
                    max_length=6,
                )[0],
                (logp,),
            )


@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf])
def test_garbage_under_the_mask_changes_neither_loss_nor_gradient(garbage: float) -> None:
    logp, old, ref, advantages, mask = draw(4)

    def dirty(x: Tensor) -> Tensor:
        return x.detach().masked_fill(~mask, garbage)

    losses = {
        "ppo": lambda x, f: ppo_policy_loss(x, f(old), f(advantages), mask)[0],
        "value": lambda x, f: ppo_value_loss(x, f(old), f(advantages), mask)[0],
        "grpo": lambda x, f: grpo_loss(x, f(old), f(advantages), mask, beta=0.1, logp_ref=f(ref))[0],
        "rloo": lambda x, f: rloo_loss(x, f(old), advantages[:, 0], mask)[0],
        "entropy": lambda x, f: entropy_bonus(x, mask, 0.3)[0],
    }
    for name, function in losses.items():
        bad = dirty(logp).requires_grad_()
        clean_loss, bad_loss = function(logp, lambda x: x), function(bad, dirty)
        assert torch.equal(clean_loss, bad_loss), name
        clean_gradient, bad_gradient = (
            torch.autograd.grad(clean_loss, logp)[0],
            torch.autograd.grad(bad_loss, bad)[0],
        )
        assert torch.equal(clean_gradient, bad_gradient), name


def test_nothing_but_the_policy_gets_a_gradient() -> None:
    logp, old, ref, advantages, mask = draw(5)
    for tensor in (old, ref, advantages):
        tensor.requires_grad_()
    loss = (
        grpo_loss(logp, old, advantages, mask, beta=0.1, logp_ref=ref)[0]
        + ppo_policy_loss(logp, old, advantages, mask)[0]
    )
    loss.backward()
    assert logp.grad is not None and old.grad is None and ref.grad is None and advantages.grad is None


def test_grpo_broadcasts_sequence_advantages() -> None:
    logp, old, _, advantages, mask = draw(6)
    per_sequence = advantages[:, 0]
    short, _ = grpo_loss(logp, old, per_sequence, mask)
    long, _ = grpo_loss(logp, old, per_sequence[:, None].expand_as(logp), mask)
    assert torch.equal(short, long)


def test_grpo_kl_golden() -> None:
    # advantage 0: only beta * ratio * k3 is left. logp = log .5, old = log .25 (ratio 2), ref = log .25:
    # k3 = .5 - 1 + log 2 = .193147; beta .1: .0193147 without, .0386294 with the ratio
    logp, old, ref = one(math.log(0.5)), one(math.log(0.25)), one(math.log(0.25))
    zero = torch.zeros(1, dtype=torch.float64)
    k3 = math.log(2) - 0.5
    plain, metrics = grpo_loss(
        logp, old, zero, every(logp), beta=0.1, logp_ref=ref, use_bias_correction_kl=False
    )
    assert plain.item() == pytest.approx(0.1 * k3, abs=1e-15)
    assert metrics["kl"].item() == pytest.approx(k3, abs=1e-15)
    corrected, metrics = grpo_loss(logp, old, zero, every(logp), beta=0.1, logp_ref=ref)
    assert corrected.item() == pytest.approx(0.2 * k3, abs=1e-15)
    assert metrics["kl"].item() == pytest.approx(2 * k3, abs=1e-15)
    assert "kl" not in grpo_loss(logp, old, zero, every(logp))[1]


def test_rloo_golden() -> None:
    # row 1: two real steps, log-ratios .1 + .2, ratio e^.3 = 1.35 > 1.2, A = 2: -2.4, clipped
    # row 2: one real step, ratio e^-.1 = .904837, A = -1: .904837 (the third column is padding)
    logp = torch.tensor([[0.1, 0.2, 9.0], [-0.1, 9.0, 9.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    loss, metrics = rloo_loss(logp, torch.zeros_like(logp), torch.tensor([2.0, -1.0]).double(), mask)
    assert loss.item() == pytest.approx((-2.4 + math.exp(-0.1)) / 2, abs=1e-15)
    assert metrics["clip_ratio"].item() == 0.5
    accumulated, _ = rloo_loss(
        logp, torch.zeros_like(logp), torch.tensor([2.0, -1.0]).double(), mask, normalizer=8
    )
    assert accumulated.item() == pytest.approx(loss.item() / 4, abs=1e-15)


def test_entropy_bonus_rewards_entropy() -> None:
    # mean entropy over the two real steps (1 + 3)/2 = 2: loss -.1 * 2
    mask = torch.tensor([[True, True, False]])
    loss, metrics = entropy_bonus(one(1.0, 3.0, 7.0), mask, 0.1)
    assert loss.item() == pytest.approx(-0.2) and metrics["entropy"].item() == 2.0


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo"])
def test_normalizer_makes_micro_batches_exact_with_gradient(loss_type: str) -> None:
    logp, old, ref, advantages, mask = draw(8, batch=6)
    count = {"dapo": float(mask.sum()), "grpo": 6.0, "dr_grpo": 36.0}[loss_type]

    def loss(rows: slice, normalizer: float | None) -> Tensor:
        return grpo_loss(
            logp[rows], old[rows], advantages[rows], mask[rows], loss_type,  # type: ignore[arg-type]
            beta=0.05, logp_ref=ref[rows], max_length=6, normalizer=normalizer,
        )[0]  # fmt: skip

    whole = torch.autograd.grad(loss(slice(None), None), logp)[0]
    parts = sum(
        torch.autograd.grad(loss(rows, count), logp)[0] for rows in (slice(0, 1), slice(1, 4), slice(4, 6))
    )
    assert torch.allclose(whole, parts, atol=1e-15)


def test_refusals() -> None:
    logp, old, ref, advantages, mask = draw(9)
    with pytest.raises(ValueError, match="dual_clip must exceed"):
        ppo_policy_loss(logp, old, advantages, mask, dual_clip=1.1)
    with pytest.raises(ValueError, match="cliprange < 1"):
        ppo_policy_loss(logp, old, advantages, mask, 1.0)
    with pytest.raises(ValueError, match="logp_old has shape"):
        ppo_policy_loss(logp, old[:, :2], advantages, mask)
    with pytest.raises(ValueError, match="needs logp_ref"):
        grpo_loss(logp, old, advantages, mask, beta=0.1)
    with pytest.raises(ValueError, match="without ratio"):
        grpo_loss(
            logp,
            old,
            advantages,
            mask,
            beta=0.1,
            logp_ref=ref,
            kl_estimator="k1",
            use_bias_correction_kl=False,
        )
    with pytest.raises(ValueError, match="cliprange_value"):
        ppo_value_loss(logp, old, advantages, mask, -0.1)
    with pytest.raises(ValueError, match="advantages"):
        rloo_loss(logp, old, advantages, mask)


def test_aggregate_is_offered_here_too() -> None:
    x = one(1.0, 3.0)
    assert aggregate(x, every(x)).item() == 2.0
