"""SuperHF's loss and the law of the best of K, which one exact round of RAFT or SuperHF moves to."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from mmalign.objectives.order_statistics import best_of_k_kl, best_of_k_law
from mmalign.objectives.sft import nll_loss
from mmalign.objectives.superhf import superhf_loss


def drawn(seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    best = -torch.rand(3, 4, generator=g, dtype=torch.float64) - 0.1
    free = -torch.rand(3, 5, generator=g, dtype=torch.float64) - 0.1
    noise = torch.randn(3, 5, generator=g, dtype=torch.float64)
    return {
        "logp_best": best,
        "mask_best": torch.arange(4) < torch.tensor([[4], [2], [1]]),
        "logp_free": free,
        "logp_ref_free": free + 0.4 * noise,
        "mask_free": torch.arange(5) < torch.tensor([[1], [5], [3]]),
    }


def test_loss_is_the_loop_and_its_gradient_is_right() -> None:
    d = drawn()
    nll = [-v for line, keep in zip(d["logp_best"].tolist(), d["mask_best"].tolist(), strict=True)
           for v, k in zip(line, keep, strict=True) if k]  # fmt: skip
    lines = zip(d["logp_free"].tolist(), d["logp_ref_free"].tolist(), d["mask_free"].tolist(), strict=True)
    k2 = [0.5 * (p - r) ** 2 for ps, rs, keep in lines for p, r, k in zip(ps, rs, keep, strict=True) if k]
    value, metrics = superhf_loss(**d, kl_coef=0.35)
    assert float(value) == pytest.approx(np.mean(nll) + 0.35 * np.mean(k2), abs=1e-12)
    assert float(metrics["nll"]) == pytest.approx(np.mean(nll)) and float(
        metrics["kl_loss"]
    ) == pytest.approx(np.mean(k2))
    best, free = d["logp_best"].requires_grad_(), d["logp_free"].requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a, b: superhf_loss(**(d | {"logp_best": a, "logp_free": b}), kl_coef=0.35)[0], (best, free)
    )


def test_without_kl_it_is_raft() -> None:
    d = drawn()
    assert float(superhf_loss(**d, kl_coef=0.0)[0]) == pytest.approx(
        float(nll_loss(d["logp_best"], d["mask_best"]))
    )


def test_padding_is_nothing() -> None:
    d = drawn()
    poisoned = d | {
        "logp_best": torch.where(d["mask_best"], d["logp_best"], float("nan")),
        "logp_free": torch.where(d["mask_free"], d["logp_free"], float("inf")),
    }
    assert float(superhf_loss(**poisoned, kl_coef=0.3)[0]) == pytest.approx(
        float(superhf_loss(**d, kl_coef=0.3)[0])
    )
    with pytest.raises(ValueError, match="kl_coef"):
        superhf_loss(**d, kl_coef=-0.1)


def exact_round(start: Tensor, target: Tensor, kl_coef: float) -> Tensor:
    """``argmin -E_target log pi + kl_coef KL(pi || start)`` on a finite set, by descent."""
    logits = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([logits], max_iter=300, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        logp = torch.log_softmax(logits, 0)
        loss = -(target * logp).sum() + kl_coef * (logp.exp() * (logp - start)).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return torch.log_softmax(logits.detach(), 0)


def test_a_stronger_prior_moves_less_and_none_is_the_best_of_k() -> None:
    start = torch.log_softmax(torch.linspace(0, 1, 8, dtype=torch.float64), 0)
    reward = torch.tensor([3.0, 1, 4, 1.5, 9, 2, 6, 5], dtype=torch.float64)
    best = best_of_k_law(start.exp(), reward, 8)
    moved = []
    for coef in (0.0, 0.3, 1.0, 10.0, 1000.0):
        after = exact_round(start, best, coef)
        moved.append(float((after.exp() * (after - start)).sum()))
    assert moved[0] == pytest.approx(float((best * (best.log() - start)).sum()), abs=1e-4)
    assert all(later < earlier for earlier, later in itertools.pairwise(moved)) and moved[-1] < 1e-5


@pytest.mark.parametrize("k", [1, 2, 8])
def test_best_of_k_is_the_law_of_order_statistics(k: int) -> None:
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(5))
    reward = np.array([2.0, 0.0, 1.0, 1.0, -1.0])  # with a tie
    law = best_of_k_law(torch.tensor(probs), torch.tensor(reward), k).numpy()
    draws = rng.choice(5, size=(200_000, k), p=probs)
    first_best = draws[np.arange(len(draws)), reward[draws].argmax(1)]
    seen = np.bincount(first_best, minlength=5) / len(draws)
    assert law.sum() == pytest.approx(1.0) and np.abs(law - seen).max() < 0.005


@pytest.mark.parametrize("k", [2, 8, 32])
def test_density_and_kl_for_a_continuous_reward(k: int) -> None:
    n = 20_000
    law = best_of_k_law(
        torch.full((n,), 1.0 / n, dtype=torch.float64), torch.arange(n, dtype=torch.float64), k
    )
    place = (torch.arange(n, dtype=torch.float64) + 0.5) / n  # F
    assert torch.allclose(law * n, k * place ** (k - 1), atol=2e-4)
    assert float((law * (law * n).clamp(min=1e-300).log()).sum()) == pytest.approx(best_of_k_kl(k), abs=2e-3)
    assert best_of_k_kl(8) == pytest.approx(1.204441, abs=1e-6)


def test_ties_cost_less_kl_and_reward_rises_every_round() -> None:
    probs = torch.tensor([0.2, 0.3, 0.1, 0.4], dtype=torch.float64)
    tied = best_of_k_law(probs, torch.tensor([0.0, 0, 1, 1], dtype=torch.float64), 4)
    assert float((tied * (tied / probs).log()).sum()) < best_of_k_kl(4)
    reward = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    means = [float((probs * reward).sum())]
    for _ in range(4):
        probs = best_of_k_law(probs, reward, 2)
        means.append(float((probs * reward).sum()))
    assert all(b > a for a, b in itertools.pairwise(means)) and math.isclose(float(probs.sum()), 1.0)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="k >= 1"):
        best_of_k_law(torch.ones(2) / 2, torch.ones(2), 0)
    with pytest.raises(ValueError, match="at least 1"):
        best_of_k_kl(0)
