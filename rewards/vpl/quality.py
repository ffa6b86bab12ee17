"""Whether a latent user was found: accuracy where users disagree, and what z says about who it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmalign.rewards.vpl.model import UserReward, UserSet

__all__ = ["linear_probe", "user_quality"]


def linear_probe(features: Tensor, labels: Tensor) -> float:
    """Accuracy on the second half of a linear classifier (least squares) fitted on the first."""
    x = torch.cat([features, torch.ones(len(features), 1)], 1).double().numpy()
    y = labels.double().numpy() * 2 - 1
    half = len(x) // 2
    weights = np.linalg.lstsq(x[:half], y[:half], rcond=None)[0]
    return float((np.sign(x[half:] @ weights) == y[half:]).mean())


@torch.no_grad()
def user_quality(model: UserReward, sets: Sequence[UserSet]) -> dict[str, Any]:
    """Numbers of held-out people.

    The first half of a person's set says who it is, the second half is predicted.

    Returns:
        ``contested`` and ``agreed``: accuracy on pairs that users disagree and agree about; ``probe``: share of people
        whose type a linear probe reads off z; ``spread_1`` and ``spread_all``: posterior variance after one comparison
        and after the whole set; counts.
    """
    better, worse = (torch.stack([getattr(item, name) for item in sets]) for name in ("better", "worse"))
    fought, users = torch.stack([item.contested for item in sets]), torch.tensor([item.user for item in sets])
    half, n = better.shape[1] // 2, better.shape[1]
    known = torch.arange(n)[None].expand(len(sets), -1)
    mean, _ = model.posterior(better, worse, known < half)
    right = (model.logits(better[:, half:], worse[:, half:], mean) > 0).float()
    contested = fought[:, half:]
    found: dict[str, Any] = {
        "contested": float(right[contested].mean()),
        "agreed": float(right[~contested].mean()),
        "n_contested": int(contested.sum()),
        "n_agreed": int((~contested).sum()),
    }
    if model.latent:
        whole, spread = model.posterior(better, worse, known < n)
        _, first = model.posterior(better, worse, known < 1)
        found |= {
            "probe": linear_probe(whole, users),
            "spread_1": float(first.exp().mean()),
            "spread_all": float(spread.exp().mean()),
        }
    return found
