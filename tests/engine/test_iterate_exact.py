"""Online preference rounds on an exact policy: they reach the KL-regularised optimum where offline data cannot."""

from __future__ import annotations

import torch
from torch import Tensor

from mmalign.objectives.preference import sigmoid_pair_loss

REWARD = torch.tensor([0.0, 0.3, 0.6, 0.2, 3.0], dtype=torch.float64)
REFERENCE = torch.tensor([0.4, 0.3, 0.2, 0.09, 0.01], dtype=torch.float64).log()
BETA = 0.5
OPTIMUM = torch.softmax(REFERENCE + REWARD / BETA, 0)


def population_loss(logp: Tensor, drawn: Tensor) -> Tensor:
    """DPO's loss over pairs of answers drawn with probabilities ``drawn`` and labelled by Bradley-Terry."""
    ratio = logp - REFERENCE
    margins = (ratio[:, None] - ratio[None, :]).flatten()
    wins = torch.sigmoid(REWARD[:, None] - REWARD[None, :]).flatten()
    pairs = (drawn[:, None] * drawn[None, :]).flatten()
    return (pairs * wins * sigmoid_pair_loss(margins, BETA)).sum() * 2


def rounds(count: int, updates: int, online: bool) -> Tensor:
    logits = REFERENCE.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.1)
    support = REFERENCE.exp() * torch.tensor(
        [1.0, 1.0, 1.0, 1.0, 0.0], dtype=torch.float64
    )  # what was collected
    for _ in range(count):
        drawn = torch.softmax(logits.detach(), 0) if online else support / support.sum()
        for _ in range(updates):
            optimizer.zero_grad()
            population_loss(torch.log_softmax(logits, 0), drawn).backward()
            optimizer.step()
    return torch.softmax(logits.detach(), 0)


def distance(p: Tensor) -> float:
    return 0.5 * float((p - OPTIMUM).abs().sum())


def test_online_reaches_the_regularised_optimum_off_the_data_and_offline_does_not() -> None:
    online, offline = rounds(20, 20, online=True), rounds(20, 20, online=False)
    assert distance(REFERENCE.exp()) > 0.5
    assert distance(online) < 0.02 < 0.5 < distance(offline)


def test_offline_is_right_on_what_it_has_seen() -> None:
    """Its failure is the support's, not the loss's: among the collected answers the odds are the optimum's."""
    offline = rounds(20, 20, online=False)[:4]
    assert torch.allclose(offline / offline.sum(), OPTIMUM[:4] / OPTIMUM[:4].sum(), atol=0.02)
