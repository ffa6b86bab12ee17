"""Losses of reward models: three classes per segment, or one score per answer of a pair."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mmalign.objectives.shapes import check_floats

__all__ = ["bradley_terry", "segment_cross_entropy"]


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
    chosen: Tensor, rejected: Tensor, margin: Tensor | None = None, centering: float = 0.0
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
    loss = -functional.logsigmoid(gap).mean()
    return loss if centering == 0.0 else loss + centering * (chosen + rejected).square().mean()
