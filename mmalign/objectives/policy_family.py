"""Relatives of the clipped policy loss: sequence-level ratios, CISPO, SAPO, LUSPO and VESPO, behind one function."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from mmalign.objectives.masked import Aggregation, aggregate, masked_mean, masked_sum
from mmalign.objectives.policy import Metrics, ppo_policy_loss
from mmalign.objectives.shapes import check_steps, fill

__all__ = ["AGGREGATION", "FamilySettings", "PolicyLoss", "policy_family_loss", "sequence_log_ratio"]

PolicyLoss = Literal["dapo", "grpo", "dr_grpo", "bnpo", "cispo", "sapo", "luspo", "vespo"]
"""TRL's ``loss_type``: how the ratio enters and how steps become one number."""

AGGREGATION: dict[str, Aggregation] = {
    **{name: name for name in get_args(Aggregation)},
    "cispo": "dapo",
    "sapo": "grpo",
    "vespo": "dapo",
}
"""How each loss is averaged, see :func:`~mmalign.objectives.masked.aggregate`."""

_LOWEST = math.log(1e-8)


@dataclass(frozen=True, slots=True)
class FamilySettings:
    """Coefficients of the family.

    Args:
        loss_type: which loss.
        importance: one ratio per ``token``, or one per ``sequence``: the geometric mean of its tokens' (GSPO).
        cliprange, cliprange_high, dual_clip: of the clipped losses; for ``cispo`` ``cliprange_high`` bounds the ratio
            itself (``epsilon_max``, 5 in the paper that TRL follows).
        sapo_temperature_pos, sapo_temperature_neg: steepness of SAPO's gate for A > 0 and A <= 0.
        vespo_pos, vespo_neg: (k, lambda) of VESPO's weight for A >= 0 and A < 0.

    Raises:
        ValueError: for ``cispo`` without ``cliprange_high``, or a temperature that is not above 0.
    """

    loss_type: PolicyLoss = "dapo"
    importance: Literal["token", "sequence"] = "token"
    cliprange: float = 0.2
    cliprange_high: float | None = None
    dual_clip: float | None = None
    sapo_temperature_pos: float = 1.0
    sapo_temperature_neg: float = 1.05
    vespo_pos: tuple[float, float] = (2.0, 3.0)
    vespo_neg: tuple[float, float] = (3.0, 2.0)

    def __post_init__(self) -> None:
        if self.loss_type == "cispo" and self.cliprange_high is None:
            raise ValueError("cispo bounds the ratio itself by cliprange_high: give one, such as 5")
        if not (self.sapo_temperature_pos > 0 and self.sapo_temperature_neg > 0):
            raise ValueError("SAPO's temperatures must be above 0")


def sequence_log_ratio(log_ratio: Tensor, mask: Tensor) -> Tensor:
    """Mean log-ratio of each sequence at each of its steps, ``[B, T]``; its exponential is GSPO's ratio.

    *Reference:* Zheng et al., GSPO (2025, arXiv:2507.18071), eq. 7. *Differs from paper:* none.
    """
    return masked_mean(log_ratio, mask, dim=1)[:, None].expand_as(log_ratio)


def policy_family_loss(
    logp: Tensor,
    logp_old: Tensor,
    advantages: Tensor,
    mask: Tensor,
    settings: FamilySettings,
    max_length: int | None = None,
    normalizer: Tensor | float | None = None,
) -> tuple[Tensor, Metrics]:
    """The policy loss that ``settings.loss_type`` names, without KL and entropy.

    ``dapo``, ``grpo``, ``bnpo``, ``dr_grpo``, ``luspo``: the clipped surrogate, averaged five ways (``luspo``: each
    sequence's sum, then the mean over sequences).  ``cispo``: ``-min(rho, c) A logp`` with the bounded ratio as a
    weight.  ``sapo``: ``-(4 / tau) sigmoid(tau (rho - 1)) A``.  ``vespo``: ``-phi(w) A logp`` with the sequence's
    ratio ``w`` and ``phi(w) = w^k exp(lambda (1 - w))`` as a weight.

    *Reference:* CISPO: MiniMax-M1 (2025, arXiv:2506.13585), eq. 4; SAPO: Gao et al. (2025, arXiv:2511.20347); LUSPO
    and VESPO: as in TRL 1.16. *Differs from TRL:* none (its loss and gradient are the test's oracle).

    Args:
        logp: ``[B, T]`` nats, with gradient.
        logp_old: ``[B, T]`` nats under the sampler; detached here.
        advantages: ``[B, T]``; detached here.
        mask: ``[B, T]`` bool.
        settings: which loss, and its coefficients.
        max_length, normalizer: see :func:`~mmalign.objectives.masked.aggregate`.

    Returns:
        loss and the metrics of :func:`~mmalign.objectives.policy.ppo_policy_loss`.

    Raises:
        ValueError: on shapes that differ or coefficients that make no sense.
    """
    how = AGGREGATION[settings.loss_type]
    check_steps(mask, {"logp": logp, "logp_old": logp_old, "advantages": advantages})
    gain = fill(advantages.detach(), mask)
    now, log_ratio = fill(logp, mask), fill(logp, mask) - fill(logp_old.detach(), mask)
    level = log_ratio if settings.importance == "token" else sequence_log_ratio(log_ratio, mask)
    if settings.loss_type == "cispo":
        per_step = -level.exp().clamp(max=settings.cliprange_high).detach() * gain * now
    elif settings.loss_type == "sapo":
        steep = _either(gain > 0, settings.sapo_temperature_pos, settings.sapo_temperature_neg, gain)
        per_step = -(4.0 / steep) * torch.sigmoid(steep * (level.exp() - 1.0)) * gain
    elif settings.loss_type == "vespo":
        per_step = -_vespo_weight(log_ratio.detach(), gain, mask, settings) * gain * now
    else:
        return ppo_policy_loss(
            level,
            torch.zeros_like(level),
            gain,
            mask,
            settings.cliprange,
            settings.cliprange_high,
            settings.dual_clip,
            how,
            max_length,
            normalizer,
        )
    return aggregate(per_step, mask, how, max_length, normalizer), _ratio_metrics(level, mask, settings)


def _vespo_weight(log_ratio: Tensor, gain: Tensor, mask: Tensor, settings: FamilySettings) -> Tensor:
    """``phi(w)`` per step, from the sequence's summed log-ratio; the weight carries no gradient."""
    whole = masked_sum(log_ratio.clamp(-20.0, 20.0), mask, 1)[:, None].clamp(_LOWEST, 20.0)
    good = gain >= 0
    k = _either(good, settings.vespo_pos[0], settings.vespo_neg[0], gain)
    steep = _either(good, settings.vespo_pos[1], settings.vespo_neg[1], gain).clamp(min=1e-4)
    return (steep + k * whole - steep * whole.exp()).exp().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def _either(condition: Tensor, yes: float, no: float, like: Tensor) -> Tensor:
    return torch.where(condition, like.new_tensor(yes), like.new_tensor(no))


@torch.no_grad()
def _ratio_metrics(level: Tensor, mask: Tensor, settings: FamilySettings) -> Metrics:
    ratio = level.exp()
    bound = settings.cliprange_high if settings.loss_type == "cispo" else None
    above = torch.zeros_like(ratio) if bound is None else (ratio > bound).to(ratio.dtype)
    return {
        "clip_ratio": masked_mean(above, mask),
        "clip_ratio/low": masked_mean(torch.zeros_like(ratio), mask),
        "clip_ratio/high": masked_mean(above, mask),
        "approx_kl": masked_mean(torch.expm1(level) - level, mask),
        "ratio/max": fill(ratio, mask).amax(),
    }
