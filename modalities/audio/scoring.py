"""Log-probability and entropy of steps that are tuples of codes."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from mmalign.modalities.audio.parts import heads
from mmalign.modalities.tokens.head import head_step_logp, scattered

__all__ = ["head_logits", "tuple_logp"]


def head_logits(head: nn.Module, states: Tensor) -> Tensor:
    """One codebook's logits in float32."""
    logits: Tensor = head(states).float()
    return logits


def tuple_logp(
    model: nn.Module,
    states: Tensor,
    tokens: Tensor,
    valid: Tensor,
    *,
    temperature: float,
    entropy: bool,
    compact: bool,
) -> tuple[Tensor, Tensor | None]:
    """Sum over the codebooks that are drawn in a step; the special tokens of the others count for nothing.

    Args:
        model: the policy.
        states: ``[B, T, H]``, what the heads read before each step.
        tokens: ``[B, K, T]`` codes.
        valid: ``[B, K, T]`` bool, where a code was drawn.
        temperature: of the sampler.
        entropy: whether the entropy of the step's distribution is wanted.
        compact: form gradients in the forward pass, where a head is one plain linear layer.

    Returns:
        Log-probability and entropy ``[B, T]`` in nats: those of a tuple of independent codes are the sums.
    """
    total = states.new_zeros(valid.shape[0], valid.shape[2], dtype=torch.float32)
    spread = torch.zeros_like(total) if entropy else None
    for book, head in enumerate(heads(model)):
        drawn = valid[:, book]
        values, uncertainty = head_step_logp(
            head if type(head) is nn.Linear else None,
            partial(head_logits, head),
            int(head.out_features),  # type: ignore[arg-type]
            states[drawn],
            tokens[:, book][drawn],
            temperature=temperature,
            entropy=entropy,
            compact=compact,
        )
        total = total + scattered(values, drawn)
        if spread is not None and uncertainty is not None:
            spread = spread + scattered(uncertainty, drawn)
    return total, spread
