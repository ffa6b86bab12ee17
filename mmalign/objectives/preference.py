"""Pairwise preference objectives behind one function.

Who computes an answer's log-probability (tokens, a denoising surrogate, actions) is kept apart from what is done
with two of them, so one function serves every modality.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmalign.objectives.masked import masked_sum
from mmalign.objectives.pair_losses import PAIR_LOSSES, smoothed_logistic
from mmalign.objectives.pairs import PairScores, PairSettings, pair_scores
from mmalign.objectives.shapes import check_floats, check_steps

__all__ = [
    "PAIR_LOSSES",
    "PairSettings",
    "dpo_loss",
    "is_coupled",
    "needs_reference",
    "pair_margin",
    "preference_loss",
    "sequence_score",
    "sigmoid_pair_loss",
    "wpo_weights",
]


def preference_loss(
    logp_chosen: Tensor,
    logp_rejected: Tensor,
    logp_ref_chosen: Tensor | None,
    logp_ref_rejected: Tensor | None,
    mask_chosen: Tensor,
    mask_rejected: Tensor,
    settings: PairSettings,
    pair_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean over pairs of the weighted sum of the named losses.

    *Reference:* one per name in ``PAIR_LOSSES``. *Differs from papers:* docs/objectives/preference.md.

    Args:
        logp_chosen, logp_rejected: ``[B, Tw]`` and ``[B, Tl]`` nats, with gradient.
        logp_ref_chosen, logp_ref_rejected: the same under the reference; detached here; both ``None`` where
            every named loss is reference-free.
        mask_chosen, mask_rejected: bool, the answers only.
        settings: which losses, and their coefficients.
        pair_weights: ``[B]`` weight of each pair's loss, such as :func:`wpo_weights`; all 1 when ``None``.

    Returns:
        scalar loss and TRL's metrics: ``rewards/chosen``, ``rewards/rejected`` (beta times the log-ratio),
        ``rewards/margins``, ``rewards/accuracies``, ``logps/chosen``, ``logps/rejected``; one
        ``loss/NAME`` per loss where several are mixed.

    Raises:
        ValueError: on shapes that differ, an unknown name, or a missing reference.
    """
    unknown = [name for name in settings.loss_type if name not in PAIR_LOSSES]
    if unknown:
        raise ValueError(f"unknown loss_type {unknown[0]!r}, expected one of {', '.join(PAIR_LOSSES)}")
    if logp_ref_chosen is None and needs_reference(settings):
        raise ValueError(f"loss_type {', '.join(settings.loss_type)} needs log-probabilities of a reference")
    scores = pair_scores(
        logp_chosen, logp_rejected, logp_ref_chosen, logp_ref_rejected, mask_chosen, mask_rejected, settings
    )
    weights = settings.loss_weights or (1.0,) * len(settings.loss_type)
    parts: dict[str, Tensor] = {}
    for name, weight in zip(settings.loss_type, weights, strict=True):
        per_pair = PAIR_LOSSES[name].loss(scores, settings)
        if pair_weights is not None:
            per_pair = per_pair * pair_weights.detach()
        parts[name] = parts.get(name, 0.0) + weight * per_pair.mean()
    metrics = _metrics(scores, settings.beta)
    if len(parts) > 1:
        metrics |= {f"loss/{name}": part.detach() for name, part in parts.items()}
    return torch.stack(list(parts.values())).sum(), metrics


def needs_reference(settings: PairSettings) -> bool:
    """Whether any of the named losses reads a reference policy."""
    return any(PAIR_LOSSES[name].reference for name in settings.loss_type)


def is_coupled(settings: PairSettings) -> bool:
    """Whether any of the named losses couples the pairs of a batch, so that micro-batches change it."""
    return any(PAIR_LOSSES[name].coupled for name in settings.loss_type)


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
    return smoothed_logistic(beta * margin, label_smoothing)


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
    """Direct preference optimisation: :func:`preference_loss` with ``sigmoid`` alone.

    At policy = reference the loss is log 2 and its gradient in each chosen step ``-beta / (2 B)``.

    *Reference:* Rafailov et al. (2023, arXiv:2305.18290), eq. 7. *Differs from paper:* none (log-probs are
    summed over steps, not averaged).

    Raises:
        ValueError: on shapes that differ or a coefficient out of range.
    """
    settings = PairSettings(beta=beta, label_smoothing=label_smoothing)
    return preference_loss(
        logp_chosen,
        logp_rejected,
        logp_ref_chosen,
        logp_ref_rejected,
        mask_chosen,
        mask_rejected,
        settings,
    )


def wpo_weights(
    logp_chosen: Tensor,
    logp_rejected: Tensor,
    collision_chosen: Tensor,
    collision_rejected: Tensor,
    mask_chosen: Tensor,
    mask_rejected: Tensor,
) -> Tensor:
    """Weight of each pair by how much on-policy its two answers are; without gradient.

    ``w = prod over both answers of exp(mean_t (logp_t - log sum_v p_t(v)^2))``

    *Reference:* Zhou et al., WPO (2024, arXiv:2406.11827), eq. 2 with sampled alignment. *Differs from paper:*
    none; TRL's ``use_weighting``.

    Args:
        logp_chosen, logp_rejected: ``[B, T*]`` nats.
        collision_chosen, collision_rejected: ``[B, T*]``, log of the sum of squared probabilities at each step.
        mask_chosen, mask_rejected: bool, the answers only.

    Returns:
        ``[B]``, > 0.
    """
    weight = torch.zeros(mask_chosen.shape[0], device=logp_chosen.device)
    for logp, collision, mask in (
        (logp_chosen, collision_chosen, mask_chosen),
        (logp_rejected, collision_rejected, mask_rejected),
    ):
        aligned = masked_sum((logp - collision).detach(), mask, 1)
        weight = weight + aligned / mask.sum(1).clamp(min=1)
    return weight.exp()


@torch.no_grad()
def _metrics(scores: PairScores, beta: float) -> dict[str, Tensor]:
    chosen, rejected = beta * scores.ratio_w, beta * scores.ratio_l
    return {
        "rewards/chosen": chosen.mean(),
        "rewards/rejected": rejected.mean(),
        "rewards/margins": (chosen - rejected).mean(),
        "rewards/accuracies": (chosen > rejected).to(chosen.dtype).mean(),
        "logps/chosen": scores.logp_w.mean(),
        "logps/rejected": scores.logp_l.mean(),
    }
