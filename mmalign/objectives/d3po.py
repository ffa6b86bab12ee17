"""D3PO: a preference between two trajectories, learnt at every step of both."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from mmalign.objectives.masked import masked_mean
from mmalign.objectives.shapes import check_floats, check_steps, fill

__all__ = ["d3po_floor", "d3po_loss"]


def d3po_floor(beta: float, clip: float | None) -> float:
    """The smallest loss there is, ``log(1 + exp(-beta log((1 + clip) / (1 - clip))))``; 0 without a clip.

    Both ratios are clipped, so the margin is capped: with the published beta 0.1 and clip 0.1 the loss lies between
    0.6832 and 0.7032 whatever the policy does.  Look at ``rewards/accuracies``, not at the loss.
    """
    if clip is None:
        return 0.0
    return math.log1p(math.exp(-beta * math.log((1 + clip) / (1 - clip))))


def d3po_loss(
    chosen_logp: Tensor,
    chosen_ref_logp: Tensor,
    chosen_mask: Tensor,
    rejected_logp: Tensor,
    rejected_ref_logp: Tensor,
    rejected_mask: Tensor,
    beta: float = 0.1,
    clip: float | None = 0.1,
    preference: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """``-log sigmoid(beta h [log clip(rho_w,t) - log clip(rho_l,t)])``, averaged over the steps of all pairs.

    ``rho = pi / pi_ref`` of one step, clipped to ``1 +- clip``.  Steps of a pair stand side by side by their place, as
    far as both trajectories go.  The ratio is one of log-probabilities **as they were reduced**: with a mean over
    dimensions (the released code) a clip of 0.1 is 0.1 nats per dimension, and hardly ever reached.  Where a ratio is
    clipped it carries no gradient, whichever way it would have to go.

    *Reference:* Yang et al. (2024, arXiv:2311.13231). *Differs from paper:* the clip is their code's, and may be off.

    Args:
        chosen_logp, chosen_ref_logp: ``[B, T]`` nats of the preferred trajectories' steps.
        chosen_mask: ``[B, T]`` bool.
        rejected_logp, rejected_ref_logp: ``[B, T']`` nats of the others.
        rejected_mask: ``[B, T']`` bool.
        beta: steepness per nat (of the reduced log-probability), > 0.
        clip: half width of the ratio's clip, in (0, 1); ``None`` for none.
        preference: h ``[B]`` in {-1, 0, 1}: -1 turns a pair round, 0 is a tie (loss log 2, no gradient); ``None`` is 1.

    Returns:
        scalar loss, and ``rewards/accuracies`` (share of steps whose margin has the right sign, equal ones half),
        ``rewards/margins`` (``beta`` times the clipped gap), ``d3po/clipped`` (share of clipped ratios).

    Raises:
        ValueError: on shapes that differ, or a beta or clip out of range.
    """
    if not (beta > 0 and (clip is None or 0 < clip < 1)):
        raise ValueError(f"need beta > 0 and 0 < clip < 1, got {beta=} {clip=}")
    check_steps(chosen_mask, {"chosen_logp": chosen_logp, "chosen_ref_logp": chosen_ref_logp})
    check_steps(rejected_mask, {"rejected_logp": rejected_logp, "rejected_ref_logp": rejected_ref_logp})
    h = torch.ones_like(chosen_logp[:, 0]) if preference is None else preference.to(chosen_logp.dtype)
    check_floats({"first steps": chosen_logp[:, 0], "preference": h}, 1)
    width = min(chosen_mask.shape[1], rejected_mask.shape[1])
    mask = chosen_mask[:, :width] & rejected_mask[:, :width]
    gaps = [
        fill(logp[:, :width], mask) - fill(ref[:, :width].detach(), mask)
        for logp, ref in ((chosen_logp, chosen_ref_logp), (rejected_logp, rejected_ref_logp))
    ]
    bounded = gaps if clip is None else [gap.clamp(math.log1p(-clip), math.log1p(clip)) for gap in gaps]
    margins = beta * h[:, None] * (bounded[0] - bounded[1])
    with torch.no_grad():
        moved = torch.stack([one != other for one, other in zip(gaps, bounded, strict=True)])
        right = (margins > 0).to(margins.dtype) + 0.5 * (margins == 0).to(margins.dtype)
        metrics = {
            "rewards/accuracies": masked_mean(right, mask),
            "rewards/margins": masked_mean(margins.detach(), mask),
            "d3po/clipped": masked_mean(moved.to(margins.dtype).mean(0), mask),
        }
    return masked_mean(F.softplus(-margins), mask), metrics
