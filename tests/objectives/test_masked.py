"""Masked reductions: golden values, emptiness, garbage under the mask, aggregation by length."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmalign.objectives.masked import aggregate, masked_mean, masked_sum, masked_var, masked_whiten
from mmalign.objectives.shapes import check_floats, check_group, check_steps, fill

X = torch.tensor([[1.0, 2.0, 3.0], [5.0, 7.0, 9.0]], dtype=torch.float64)
M = torch.tensor([[True, True, False], [True, False, False]])


def test_golden_values() -> None:
    # real entries 1, 2, 5: sum 8, mean 8/3, variance (1 + 4 + 25)/3 - 64/9 = 26/9, unbiased 26/6
    assert masked_sum(X, M).item() == 8.0
    assert masked_mean(X, M).item() == pytest.approx(8 / 3, abs=1e-15)
    assert masked_var(X, M).item() == pytest.approx(26 / 9, abs=1e-14)
    assert masked_var(X, M, correction=1).item() == pytest.approx(26 / 6, abs=1e-14)
    assert masked_var(X, M, dim=1, correction=1).tolist() == [0.5, 0.0]


def test_golden_values_per_row_and_column() -> None:
    assert masked_sum(X, M, dim=1).tolist() == [3.0, 5.0]
    assert masked_mean(X, M, dim=1).tolist() == [1.5, 5.0]
    assert masked_var(X, M, dim=1).tolist() == [0.25, 0.0]
    assert masked_mean(X, M, dim=0).tolist() == [3.0, 2.0, 0.0]
    assert masked_mean(X, M, dim=-1).tolist() == [1.5, 5.0]


def test_empty_mask_gives_zero_and_zero_gradient() -> None:
    x = X.clone().requires_grad_()
    none = torch.zeros_like(M)
    total = masked_sum(x, none) + masked_mean(x, none) + masked_var(x, none) + masked_whiten(x, none).sum()
    assert total.item() == 0.0
    total.backward()
    assert x.grad is not None and x.grad.abs().max().item() == 0.0


@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf, 1e30])
def test_garbage_under_the_mask_changes_nothing(garbage: float) -> None:
    dirty = torch.where(M, X, torch.full_like(X, garbage))
    for function in (masked_sum, masked_mean, masked_var, masked_whiten):
        assert torch.equal(function(dirty, M), function(X, M))
    for how in ("grpo", "bnpo", "dapo", "dr_grpo"):
        assert torch.equal(aggregate(dirty, M, how, 3), aggregate(X, M, how, 3))


def test_garbage_sends_no_nan_backwards() -> None:
    x = torch.where(M, X, torch.full_like(X, math.inf)).requires_grad_()
    (masked_mean(x, M) + masked_var(x, M)).backward()
    assert x.grad is not None and torch.isfinite(x.grad).all()
    assert x.grad[~M].abs().max().item() == 0.0


def test_whitening_golden() -> None:
    # real entries 1, 2, 5: mean 8/3, std sqrt(26)/3: 1 -> (1 - 8/3) / (sqrt(26)/3) = -5/sqrt(26)
    white = masked_whiten(X, M)
    std = math.sqrt(26) / 3 + 1e-8
    expected = [(1 - 8 / 3) / std, (2 - 8 / 3) / std, (5 - 8 / 3) / std]
    assert white[M].tolist() == pytest.approx(expected, abs=1e-13)
    assert expected[0] == pytest.approx(-5 / math.sqrt(26), abs=1e-7)
    assert white[~M].abs().max().item() == 0.0
    kept = masked_whiten(X, M, shift_mean=False)
    assert kept[M].tolist() == pytest.approx([value + 8 / 3 for value in expected], abs=1e-13)


def test_identity_16_std_three_becomes_one() -> None:
    # Fine-Grained RLHF divides by sqrt(std): data of std 3 came out at sqrt(3) = 1.73; here it must be 1.
    generator = torch.Generator().manual_seed(0)
    x = 3.0 * torch.randn(64, 32, generator=generator, dtype=torch.float64) + 7.0
    mask = torch.rand(64, 32, generator=generator) > 0.4
    white = masked_whiten(x, mask)[mask]
    assert abs(white.mean().item()) < 1e-6
    assert abs(white.std(correction=0).item() - 1.0) < 1e-6


def test_constant_batch_whitens_to_exactly_zero() -> None:
    x = torch.full((4, 5), 0.1)
    mask = torch.rand(4, 5, generator=torch.Generator().manual_seed(1)) > 0.3
    assert masked_whiten(x, mask).abs().max().item() == 0.0


def test_half_precision_is_summed_in_float32() -> None:
    # bfloat16 has 8 bits: 1 + 1 + ... stalls at 256 when summed in its own precision
    x = torch.ones(1, 1000, dtype=torch.bfloat16)
    assert masked_sum(x, torch.ones(1, 1000, dtype=torch.bool)).item() == 1000.0


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), shift=st.floats(-50, 50), scale=st.floats(0.01, 50))
def test_whitening_ignores_shift_and_scale(seed: int, shift: float, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    mask = torch.rand(3, 4, generator=generator) > 0.3
    assert torch.allclose(masked_whiten(scale * x + shift, mask), masked_whiten(x, mask), atol=1e-5)


def test_identity_21_equal_lengths_coincide() -> None:
    per_step = torch.arange(12.0, dtype=torch.float64).reshape(3, 4)
    mask = torch.ones(3, 4, dtype=torch.bool)
    values = [aggregate(per_step, mask, how, 4).item() for how in ("grpo", "bnpo", "dapo", "dr_grpo")]
    assert values == pytest.approx([5.5] * 4, abs=1e-15)


def test_identity_21_lengths_one_and_nine() -> None:
    # sequence 1: one step of loss 1; sequence 2: nine of loss 2.
    # grpo (1 + 2)/2 = 1.5; bnpo = dapo (1 + 18)/10 = 1.9; dr_grpo (1 + 18)/(2 * 16) = 0.59375
    per_step = torch.tensor([[1.0] * 9, [2.0] * 9], dtype=torch.float64)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[0, 1:] = False
    assert aggregate(per_step, mask, "grpo").item() == 1.5
    assert aggregate(per_step, mask, "bnpo").item() == 1.9
    assert aggregate(per_step, mask, "dapo").item() == 1.9
    assert aggregate(per_step, mask, "dr_grpo", max_length=16).item() == 0.59375


@pytest.mark.parametrize("how", ["dapo", "grpo", "dr_grpo"])
def test_normalizer_makes_micro_batches_exact(how: str) -> None:
    generator = torch.Generator().manual_seed(3)
    per_step = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    mask = torch.rand(6, 5, generator=generator) > 0.4
    whole = aggregate(per_step, mask, how, 5)
    normalizer = {"dapo": float(mask.sum()), "grpo": 6.0, "dr_grpo": 30.0}[how]
    parts = [aggregate(per_step[a:b], mask[a:b], how, 5, normalizer) for a, b in ((0, 1), (1, 4), (4, 6))]
    assert torch.stack(parts).sum().item() == pytest.approx(whole.item(), abs=1e-14)


def test_empty_sequence_counts_as_zero_in_grpo() -> None:
    mask = torch.tensor([[True, True], [False, False]])
    assert aggregate(torch.ones(2, 2), mask, "grpo").item() == 0.5
    assert aggregate(torch.ones(2, 2), torch.zeros(2, 2, dtype=torch.bool), "dapo").item() == 0.0


def test_refusals_name_the_tensor() -> None:
    with pytest.raises(ValueError, match="boolean"):
        masked_mean(X, M.long())
    with pytest.raises(ValueError, match="floating"):
        masked_sum(X.long(), M)
    with pytest.raises(ValueError, match="mean"):
        aggregate(X, M, "mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_length"):
        aggregate(X, M, "dr_grpo")
    with pytest.raises(ValueError, match="max_length"):
        aggregate(X, M, "dr_grpo", max_length=0)
    assert aggregate(X, M, "dr_grpo", max_length=1).item() == 4.0
    with pytest.raises(ValueError, match="bnpo"):
        aggregate(X, M, "bnpo", normalizer=3.0)


def test_shape_checks() -> None:
    with pytest.raises(ValueError, match=r"rewards has shape \(2, 2\)"):
        check_steps(M, {"rewards": X[:, :2]})
    with pytest.raises(ValueError, match="values must be a floating"):
        check_steps(M, {"values": X.long()})
    with pytest.raises(ValueError, match="mask must be a boolean"):
        check_steps(M[0], {})
    with pytest.raises(ValueError, match="1 dimensions"):
        check_floats({"score": X}, 1)
    with pytest.raises(ValueError, match="other has shape"):
        check_floats({"score": X[0], "other": X[0, :2]}, 1)
    with pytest.raises(ValueError, match="integers"):
        check_group(X[0], 3)
    with pytest.raises(ValueError, match="group has shape"):
        check_group(torch.zeros(2, dtype=torch.long), 3)


def test_fill_stops_gradient_of_garbage_through_exp() -> None:
    x = torch.tensor([0.5, math.inf], dtype=torch.float64, requires_grad=True)
    fill(x, torch.tensor([True, False])).exp().sum().backward()
    assert x.grad is not None and x.grad.tolist() == pytest.approx([math.exp(0.5), 0.0])
