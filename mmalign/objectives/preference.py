"""Pairwise preference objectives, all through one number per pair: the margin.

Who computes a sequence's score (a true log-probability ratio, a denoising surrogate, a reward model) is kept
apart from what is done with the difference of two scores.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mmalign.objectives.masked import masked_sum
from mmalign.objectives.shapes import check_floats, check_steps

__all__ = ["dpo_loss", "pair_margin", "sequence_score", "sigmoid_pair_loss"]


def sequence_score(logp: Tensor, logp_ref: Tensor, mask: Tensor) -> Tensor:
    """Log-ratio of a whole answer, summed over real steps: ``S = sum_t (logp_t - logp_ref_t)``.

    Args:
        logp: ``[B, T]`` nats, with gradient.
        logp_ref: ``[B, T]`` nats; detached here.
        mask: ``[B, T]`` bool; the answer only, never the prompt.

    Returns:
        ``[B]`` nats (summed in float32 where half precision comes in).

    Raises:
        ValueError: on shapes that differ.
    """
    check_steps(mask, {"logp": logp, "logp_ref": logp_ref})
    return masked_sum(logp, mask, dim=1) - masked_sum(logp_ref.detach(), mask, dim=1)


def pair_margin(score_chosen: Tensor, score_rejected: Tensor) -> Tensor:
    """``S_w - S_l``: anything added to both scores of a pair (the prompt, a constant) cancels.

    Args:
        score_chosen: ``[B]`` score of the preferred answers.
        score_rejected: ``[B]`` score of the others.

    Raises:
        ValueError: on shapes that differ.
    """
    check_floats({"score_chosen": score_chosen, "score_rejected": score_rejected}, 1)
    return score_chosen - score_rejected


def sigmoid_pair_loss(margin: Tensor, beta: float = 0.1, label_smoothing: float = 0.0) -> Tensor:
    """Per pair ``-(1 - e) log sigmoid(beta m) - e log sigmoid(-beta m)``; at beta 1 it is Bradley-Terry.

    *Reference:* Rafailov et al. (2023, arXiv:2305.18290), eq. 7; smoothing: Mitchell, "cDPO" (2023).
    *Differs from paper:* none.

    Args:
        margin: ``[B]`` from :func:`pair_margin`.
        beta: inverse temperature of the implicit reward, > 0.
        label_smoothing: e, the share of labels thought wrong, in [0, 0.5).

    Returns:
        ``[B]`` nats.

    Raises:
        ValueError: when beta or e is out of range.
    """
    if not beta > 0 or not 0 <= label_smoothing < 0.5:
        raise ValueError(f"need beta > 0 and label_smoothing in [0, 0.5), got {beta} and {label_smoothing}")
    logits = beta * margin
    right, wrong = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    return -(1.0 - label_smoothing) * right - label_smoothing * wrong


def dpo_loss(
    logp_chosen: Tensor,
    logp_rejected: Tensor,
    logp_ref_chosen: Tensor,
    logp_ref_rejected: Tensor,
    mask_chosen: Tensor,
    mask_rejected: Tensor,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Direct preference optimisation: the mean :func:`sigmoid_pair_loss` of the pairs' log-ratio margins.

    At policy = reference the loss is log 2 and its gradient in each chosen step ``-beta / (2 B)``.

    *Reference:* Rafailov et al. (2023, arXiv:2305.18290), eq. 7. *Differs from paper:* none (log-probs are
    summed over steps, not averaged).

    Args:
        logp_chosen, logp_rejected: ``[B, Tw]`` and ``[B, Tl]`` nats, with gradient.
        logp_ref_chosen, logp_ref_rejected: the same under the reference; detached here.
        mask_chosen, mask_rejected: bool, the answers only.
        beta: see :func:`sigmoid_pair_loss`, as ``label_smoothing``.

    Returns:
        loss and TRL's metrics: ``rewards/chosen``, ``rewards/rejected`` (beta times the score),
        ``rewards/margins``, ``rewards/accuracies``, ``logps/chosen``, ``logps/rejected``.

    Raises:
        ValueError: on shapes that differ or a coefficient out of range.
    """
    chosen = sequence_score(logp_chosen, logp_ref_chosen, mask_chosen)
    rejected = sequence_score(logp_rejected, logp_ref_rejected, mask_rejected)
    margin = pair_margin(chosen, rejected)
    with torch.no_grad():
        metrics = {
            "rewards/chosen": beta * chosen.mean(),
            "rewards/rejected": beta * rejected.mean(),
            "rewards/margins": beta * margin.mean(),
            "rewards/accuracies": (margin > 0).to(margin.dtype).mean(),
            "logps/chosen": masked_sum(logp_chosen, mask_chosen, 1).mean(),
            "logps/rejected": masked_sum(logp_rejected, mask_rejected, 1).mean(),
        }
    return sigmoid_pair_loss(margin, beta, label_smoothing).mean(), metrics
