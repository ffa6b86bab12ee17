"""The semantic preservation loss: cosine by hand, its range, and where its gradient goes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmalign.objectives.semantic import semantic_preservation_loss


def test_loss_is_one_minus_the_mean_cosine() -> None:
    a = torch.tensor([[3.0, 4.0], [1.0, 0.0]], dtype=torch.float64)
    b = torch.tensor([[4.0, 3.0], [0.0, 2.0]], dtype=torch.float64)
    value, metrics = semantic_preservation_loss(a, b)
    assert float(value) == pytest.approx(1 - np.mean([24 / 25, 0.0])) == pytest.approx(0.52)
    assert float(metrics["semantic/cosine"]) == pytest.approx(0.48)


def test_it_is_0_for_the_same_and_2_for_the_opposite_whatever_the_length() -> None:
    a = torch.randn(3, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert float(semantic_preservation_loss(a, 7 * a)[0]) == pytest.approx(0.0, abs=1e-12)
    assert float(semantic_preservation_loss(a, -0.1 * a)[0]) == pytest.approx(2.0)


def test_gradient_is_right_and_the_anchor_has_none() -> None:
    rng = torch.Generator().manual_seed(1)
    a, b = (torch.randn(2, 5, generator=rng, dtype=torch.float64).requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(lambda x: semantic_preservation_loss(x, b.detach())[0], (a,))
    semantic_preservation_loss(a, b)[0].backward()
    assert b.grad is None
    with pytest.raises(ValueError, match="anchor"):
        semantic_preservation_loss(a, b[:1])
