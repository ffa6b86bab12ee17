"""SuperHF: likelihood of the best samples with a KL prior."""

from __future__ import annotations

from torch import Tensor

from mmalign.objectives.kl import kl_loss
from mmalign.objectives.masked import masked_sum
from mmalign.objectives.sft import nll_loss

__all__ = ["superhf_loss"]


def superhf_loss(
    logp_best: Tensor,
    mask_best: Tensor,
    logp_free: Tensor,
    logp_ref_free: Tensor,
    mask_free: Tensor,
    kl_coef: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """``L = NLL(best) + kl_coef * KL(policy || reference)``, both means over steps.

    The KL term is the per-step k2 estimate ``(logp - logp_ref)^2 / 2``, whose gradient on the policy's own samples is
    that of the KL.  It is read on ``free`` answers, which were drawn like the best ones but **not chosen by reward**:
    on the chosen ones the estimate would be that of another distribution.  ``kl_coef`` 0 is RAFT.

    *Reference:* Mukobi et al. (2023, arXiv:2310.16763). *Differs from paper:* the paper and its code take the
    whole distribution at each position of the best answers; the code's direction is KL(reference || policy), one token
    off, and summed over the batch while the likelihood is averaged, so that its coefficient depends on the batch size.

    Args:
        logp_best: ``[B, T]`` nats of the best answers, with gradient.
        mask_best: ``[B, T]`` bool.
        logp_free, logp_ref_free: ``[B, T']`` nats of unselected answers under policy (with gradient) and reference.
        mask_free: ``[B, T']`` bool.
        kl_coef: weight per nat, >= 0.

    Returns:
        scalar loss, and the metrics ``nll`` and ``kl_loss`` (nats per step).

    Raises:
        ValueError: on shapes that differ or a negative coefficient.
    """
    if kl_coef < 0:
        raise ValueError(f"kl_coef: expected a number from 0, got {kl_coef}")
    nll = nll_loss(logp_best, mask_best)
    per_step = kl_loss(logp_free, logp_ref_free, mask_free, "k2", ratio_correction=False)
    penalty = masked_sum(per_step, mask_free) / mask_free.sum().clamp(min=1)
    return nll + kl_coef * penalty, {"nll": nll.detach(), "kl_loss": penalty.detach()}
