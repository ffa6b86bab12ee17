"""Objectives on single answers marked good or bad: KTO, unpaired APO and BCO."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from mmalign.objectives.preference import sequence_score

__all__ = ["bco_loss", "bco_shift", "kto_kl", "kto_loss"]


def kto_kl(logp: Tensor, logp_ref: Tensor, mask: Tensor) -> Tensor:
    """Estimate KTO's reference point: ``max(0, mean (logp - logp_ref))`` over answers of other prompts.

    *Reference:* Ethayarajh et al. (2024, arXiv:2402.01306), section 4.1. *Differs from paper:* none; mismatched
    means every prompt with the answer of the row before, as in TRL.

    Args:
        logp: ``[B, T]`` nats of answers that belong to other prompts; no gradient flows.
        logp_ref: the same under the reference.
        mask: ``[B, T]`` bool.

    Returns:
        scalar >= 0, nats per answer.

    Raises:
        ValueError: on shapes that differ.
    """
    return sequence_score(logp.detach(), logp_ref, mask).mean().clamp(min=0)


def kto_loss(
    logp: Tensor,
    logp_ref: Tensor,
    mask: Tensor,
    desirable: Tensor,
    kl: Tensor | float = 0.0,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
    loss_type: Literal["kto", "apo_zero_unpaired"] = "kto",
) -> tuple[Tensor, dict[str, Tensor]]:
    """Kahneman-Tversky optimisation: ``mean w (1 - sigmoid(+-beta (S - kl)))``, + for desirable answers.

    *Reference:* Ethayarajh et al. (2024, arXiv:2402.01306), eq. 8; ``apo_zero_unpaired``: D'Oosterlinck et al.
    (2024, arXiv:2408.06266), eq. 7 with kl = 0. *Differs from paper:* none.

    Args:
        logp: ``[B, T]`` nats, with gradient.
        logp_ref: the same under the reference; detached here.
        mask: ``[B, T]`` bool; the answer only.
        desirable: ``[B]`` bool.
        kl: reference point in nats, from :func:`kto_kl`; ignored by ``apo_zero_unpaired``.
        beta: inverse temperature, > 0.
        desirable_weight, undesirable_weight: balance unequal shares of good and bad answers.
        loss_type: which of the two.

    Returns:
        scalar loss and metrics ``rewards/chosen``, ``rewards/rejected`` (0 where there is none), ``kl``.

    Raises:
        ValueError: on shapes or a dtype that differ, or beta <= 0.
    """
    if desirable.dtype != torch.bool or desirable.shape != mask.shape[:1]:
        raise ValueError(f"desirable must be boolean [B], got {desirable.dtype} {tuple(desirable.shape)}")
    if not beta > 0:
        raise ValueError(f"need beta > 0, got {beta}")
    score = sequence_score(logp, logp_ref, mask)
    point = torch.as_tensor(kl, dtype=score.dtype, device=score.device).detach()
    point = torch.zeros_like(point) if loss_type == "apo_zero_unpaired" else point
    sign = desirable.to(score.dtype) * 2 - 1
    weight = torch.where(desirable, desirable_weight, undesirable_weight)
    loss = (weight * (1.0 - torch.sigmoid(sign * beta * (score - point)))).mean()
    return loss, {**_rewards(beta * score.detach(), desirable), "kl": point}


def bco_shift(rewards_good: Tensor, rewards_bad: Tensor, shift: float | None, momentum: float = 0.9) -> float:
    """Running mean of all rewards, BCO's threshold: ``shift <- m shift + (1 - m) (mean good + mean bad) / 2``.

    *Reference:* Jung et al. (2024, arXiv:2404.04656), section 3. *Differs from paper:* the momentum is an argument;
    the first call (``shift`` is ``None``) takes the batch's own value.

    Args:
        rewards_good, rewards_bad: beta times log-ratios; an empty tensor is left out.
        shift: the value so far.
        momentum: m in [0, 1).
    """
    means = [float(x.mean()) for x in (rewards_good, rewards_bad) if x.numel()]
    fresh = sum(means) / len(means) if means else 0.0
    return fresh if shift is None else momentum * shift + (1.0 - momentum) * fresh


def bco_loss(
    logp: Tensor, logp_ref: Tensor, mask: Tensor, desirable: Tensor, shift: float = 0.0, beta: float = 0.1
) -> tuple[Tensor, dict[str, Tensor]]:
    """Binary classifier optimisation: ``mean -log sigmoid(+-(beta S - shift))``, + for desirable answers.

    *Reference:* Jung et al. (2024, arXiv:2404.04656), eq. 10. *Differs from paper:* no density-ratio weights for
    answers from different distributions.

    Args:
        logp, logp_ref, mask, desirable, beta: as in :func:`kto_loss`.
        shift: from :func:`bco_shift`, in reward units.

    Raises:
        ValueError: on shapes that differ.
    """
    if desirable.dtype != torch.bool or desirable.shape != mask.shape[:1]:
        raise ValueError(f"desirable must be boolean [B], got {desirable.dtype} {tuple(desirable.shape)}")
    reward = beta * sequence_score(logp, logp_ref, mask)
    sign = desirable.to(reward.dtype) * 2 - 1
    loss = -functional.logsigmoid(sign * (reward - shift)).mean()
    return loss, _rewards(reward.detach(), desirable)


def _rewards(reward: Tensor, desirable: Tensor) -> dict[str, Tensor]:
    def mean(keep: Tensor) -> Tensor:
        return (reward * keep).sum() / keep.sum().clamp(min=1)

    return {"rewards/chosen": mean(desirable), "rewards/rejected": mean(~desirable)}
