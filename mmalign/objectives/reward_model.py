"""Losses of reward models: three classes per segment, one score per answer, or one answer against another."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mmalign.objectives.shapes import check_floats

__all__ = [
    "anchor_penalty",
    "bradley_terry",
    "comparisons",
    "lower_confidence",
    "pairwise_preference",
    "plackett_luce",
    "segment_cross_entropy",
]


def segment_cross_entropy(
    logits: Tensor, labels: Tensor, ignore: int = -100, class_weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy of FGAIF's segment labels; class k of the logits means label ``k - 1``.

    ``L = -sum_n w[y_n] log softmax(logits_n)[y_n] / sum_n w[y_n]`` over labels other than ``ignore``.

    *Reference:* Jing & Du, FGAIF (2024, arXiv:2404.05046), eq. 4. *Differs from paper:* optional weights.

    Args:
        logits: ``[N, 3]``; columns: hallucinated (-1), not applicable (0), right (+1).
        labels: ``[N]`` integers in -1, 0, +1, or ``ignore``.
        ignore: label of segments to leave out; must not be -1, 0 or 1.
        class_weights: ``[3]`` weight of each column, e.g. inverse frequencies.

    Returns:
        scalar, nats per segment; 0 (with a gradient of 0) when every label is ignored.

    Raises:
        ValueError: on wrong shapes, or a label that is none of the four numbers (with its row).
    """
    check_floats({"logits": logits}, 2)
    if logits.shape[1] != 3 or labels.shape != logits.shape[:1] or labels.is_floating_point():
        got = f"{tuple(logits.shape)} and {labels.dtype} {tuple(labels.shape)}"
        raise ValueError(f"expected logits [N, 3] and integer labels [N], got {got}")
    if ignore in (-1, 0, 1):
        raise ValueError(f"ignore must differ from the labels -1, 0, 1, got {ignore}")
    keep = labels != ignore
    wrong = torch.nonzero(keep & (labels.abs() > 1)).flatten().tolist()
    if wrong:
        raise ValueError(f"label {int(labels[wrong[0]])} in row {wrong[0]}, expected -1, 0, 1 or {ignore}")
    if not bool(keep.any()):
        return torch.where(keep.unsqueeze(1), logits, torch.zeros_like(logits)).sum()
    return functional.cross_entropy(logits[keep], labels[keep].long() + 1, weight=class_weights)


def bradley_terry(
    chosen: Tensor,
    rejected: Tensor,
    margin: Tensor | None = None,
    centering: float = 0.0,
    weight: Tensor | None = None,
) -> Tensor:
    """Pairwise reward-model loss ``-mean log sigmoid(r_w - r_l - margin) + c mean (r_w + r_l)^2``.

    Without centering, adding a constant per prompt to both scores changes nothing.

    *Reference:* Bradley & Terry (1952); margin: Touvron et al. (2023, arXiv:2307.09288), eq. 2; centering:
    Eisenstein et al. (2023, arXiv:2312.09244). *Differs from paper:* none.

    Args:
        chosen: ``[B]`` score of the preferred answer, with gradient.
        rejected: ``[B]`` score of the other.
        margin: ``[B]`` by how much the preferred should win, >= 0; 0 when ``None``.
        centering: coefficient that keeps scores near 0 (TRL's ``center_rewards_coefficient``; .01 is usual).
        weight: ``[B]`` weight of each pair, >= 0; equal when ``None``.

    Returns:
        scalar, nats per pair.

    Raises:
        ValueError: on shapes that differ.
    """
    check_floats({"chosen": chosen, "rejected": rejected}, 1)
    gap = chosen - rejected
    if margin is not None:
        check_floats({"chosen": chosen, "margin": margin}, 1)
        gap = gap - margin
    losses = -functional.logsigmoid(gap)
    if centering:
        losses = losses + centering * (chosen + rejected).square()
    if weight is None:
        return losses.mean()
    check_floats({"chosen": chosen, "weight": weight}, 1)
    return (losses * weight).sum() / weight.sum().clamp(min=torch.finfo(weight.dtype).tiny)


def comparisons(worth: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Every pair of candidates of one prompt that differ in worth, the better one first.

    Args:
        worth: ``[B, K]`` what each candidate is worth to the judge; only the order within a row counts.
        mask: ``[B, K]`` bool, false where a prompt has fewer than ``K`` candidates.

    Returns:
        Four ``[P]`` tensors: row, better candidate, worse candidate (indices), and the weight of the pair, one over
        the number of pairs of its row, so that every prompt counts once however many candidates it has
        (Ouyang et al., 2022, arXiv:2203.02155, eq. 1).

    Raises:
        ValueError: on shapes that differ, or a worth under the mask that is not finite.
    """
    check_floats({"worth": worth}, 2)
    real = torch.ones_like(worth, dtype=torch.bool) if mask is None else mask
    if real.shape != worth.shape:
        raise ValueError(f"mask has shape {tuple(real.shape)}, worth {tuple(worth.shape)}")
    if not bool(torch.isfinite(worth[real]).all()):
        raise ValueError("worth is not finite: nothing can be ranked by it")
    better = (worth[:, :, None] > worth[:, None, :]) & real[:, :, None] & real[:, None, :]
    row, first, second = torch.nonzero(better, as_tuple=True)
    weight = 1.0 / better.sum(dim=(1, 2)).clamp(min=1)[row].to(worth.dtype)
    return row, first, second, weight


def plackett_luce(scores: Tensor, worth: Tensor, mask: Tensor | None = None) -> Tensor:
    """Listwise loss over ``K`` ranked candidates: each is the best of itself and everything worse.

    ``L = mean_b mean_i -log (e^{s_i} / (e^{s_i} + sum_{j: w_j < w_i} e^{s_j}))`` over the candidates ``i`` that have
    something below them.  Without ties this is Plackett-Luce's log-likelihood over ``K - 1`` positions; candidates
    of equal worth are not compared with each other.  ``K = 2`` is Bradley-Terry.

    *Reference:* Plackett (1975); as a reward-model loss Rafailov et al. (2023, arXiv:2305.18290), appendix A.3.
    *Differs from paper:* mean over positions instead of their sum; ties allowed.

    Args:
        scores: ``[B, K]`` reward of every candidate, with gradient.
        worth: ``[B, K]`` what the judge thinks of it; only the order within a row counts.
        mask: ``[B, K]`` bool, false where a prompt has fewer than ``K`` candidates.

    Returns:
        scalar, nats per position; 0 (with a gradient of 0) when no two candidates of a prompt differ.

    Raises:
        ValueError: on shapes that differ, or a worth under the mask that is not finite.
    """
    check_floats({"scores": scores, "worth": worth}, 2)
    real = torch.ones_like(worth, dtype=torch.bool) if mask is None else mask
    comparisons(worth.detach(), real)
    below = (worth[:, :, None] > worth[:, None, :]) & real[:, :, None] & real[:, None, :]
    ranked = below.any(dim=2)
    itself = torch.eye(worth.shape[1], dtype=torch.bool, device=worth.device)
    safe = torch.where(real, scores, torch.zeros_like(scores))
    rivals = safe[:, None, :].expand_as(below).masked_fill(~(below | itself), -torch.inf)
    losses = torch.where(ranked, torch.logsumexp(rivals, dim=2) - safe, torch.zeros_like(safe))
    per_row = losses.sum(dim=1) / ranked.sum(dim=1).clamp(min=1)
    return per_row.sum() / ranked.any(dim=1).sum().clamp(min=1)


def pairwise_preference(
    logits: Tensor, target: Tensor | None = None, weight: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy of a model that sees both answers: ``P(a better than b) = sigmoid(logit)``.

    *Reference:* the preference model of Munos et al. (2023, arXiv:2312.00886), eq. 1, and Dong et al., RLHF Workflow
    (2024, arXiv:2405.07863), section 2.2. *Differs from paper:* logits are meant to be antisymmetric in the two
    answers (see ``rewards.preference``), so one order is enough.

    Args:
        logits: ``[P]``, positive where the first answer is thought better, with gradient.
        target: ``[P]`` probability that the first is better, in [0, 1]; 1 when ``None``.
        weight: ``[P]`` weight of each pair; equal when ``None``.
        label_smoothing: share of the labels thought wrong, below 0.5.

    Returns:
        scalar, nats per pair (weighted mean).

    Raises:
        ValueError: on shapes that differ, or a target or smoothing out of range.
    """
    given = {"logits": logits} | {
        name: value for name, value in (("target", target), ("weight", weight)) if value is not None
    }
    check_floats(given, 1)
    if not 0.0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing: expected a share in [0, 0.5), got {label_smoothing}")
    wanted = torch.ones_like(logits) if target is None else target
    if bool(((wanted < 0) | (wanted > 1)).any()):
        raise ValueError("target: expected probabilities in [0, 1]")
    wanted = wanted * (1 - label_smoothing) + (1 - wanted) * label_smoothing
    losses = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    if weight is None:
        return losses.mean()
    return (losses * weight).sum() / weight.sum().clamp(min=torch.finfo(weight.dtype).tiny)


def anchor_penalty(scores: Tensor, target: Tensor, eps: float) -> Tensor:
    """Keep scores on a scale that means something: ``mean max(|s - y| - eps, 0)``.

    Pairs fix a score up to a constant per prompt only; this ties it to graded answers, and leaves a band of ``eps``
    within which the pairs decide alone.

    *Reference:* the human-anchored fine-tuning of Zou et al. (2021, arXiv:2105.11108). *Differs from paper:* its
    constants could not be checked; ``eps`` has no default.

    Args:
        scores: ``[B]``, with gradient.
        target: ``[B]`` grades in units of the score.
        eps: half width of the free band, >= 0.

    Raises:
        ValueError: on shapes that differ or a negative ``eps``.
    """
    check_floats({"scores": scores, "target": target}, 1)
    if eps < 0:
        raise ValueError(f"eps: expected a number >= 0, got {eps}")
    return ((scores - target).abs() - eps).clamp(min=0.0).mean()


def lower_confidence(scores: Tensor, k: float) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, disagreement and the cautious score ``mean - k std`` of an ensemble.

    *Reference:* Coste et al. (2023, arXiv:2310.02743), uncertainty-weighted optimisation. *Differs from paper:* the
    standard deviation in place of the variance, so that ``k`` has no unit.

    Args:
        scores: ``[M, B]`` score of every member.
        k: how many standard deviations are taken off, >= 0.

    Returns:
        mean ``[B]``, population standard deviation ``[B]`` (0 for one member), ``mean - k std`` ``[B]``.

    Raises:
        ValueError: when ``scores`` is not ``[M, B]`` or ``k`` is negative.
    """
    check_floats({"scores": scores}, 2)
    if k < 0:
        raise ValueError(f"k: expected a number >= 0, got {k}")
    mean, spread = scores.mean(dim=0), scores.std(dim=0, correction=0)
    return mean, spread, mean - k * spread
