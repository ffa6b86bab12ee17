"""Semantic preservation: a new word keeps the meaning of its class while it learns how one thing looks."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from mmalign.objectives.shapes import check_floats

__all__ = ["semantic_preservation_loss"]


def semantic_preservation_loss(concept: Tensor, anchor: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """``mean(1 - cos(E(concept prompt), E(class prompt)))``, in [0, 2]; the class's side is detached.

    *Reference:* Huang et al., ClassDiffusion (2024), arXiv:2405.17532. *Differs from paper:* none.  *Differs from its
    code:* any batch size, and ``concept`` comes from the text encoder itself, so that the new word has its position
    (there its raw vector is put in after positions were added).

    Args:
        concept: ``[B, D]`` summaries of prompts with the new word, with gradient.
        anchor: ``[B, D]`` summaries of the same prompts with the class alone.

    Returns:
        scalar loss, and ``semantic/cosine``.

    Raises:
        ValueError: on unequal shapes or dtypes that are not floating.
    """
    check_floats({"concept": concept, "anchor": anchor}, 2)
    cosine = F.cosine_similarity(concept, anchor.detach(), dim=-1)
    return (1.0 - cosine).mean(), {"semantic/cosine": cosine.detach().mean()}
