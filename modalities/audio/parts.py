"""The parts of a MusicGen-type model, and the two conditions of classifier-free guidance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmalign.modalities.tokens.forward import unwrap

__all__ = ["Condition", "condition", "decoder_body", "heads", "null_trains", "states"]


@dataclass(frozen=True, slots=True)
class Condition:
    """What the decoder attends to: text states ``[B, L, H]``, zero where ``mask`` ``[B, L]`` is 0."""

    states: Tensor
    mask: Tensor

    def take(self, rows: Tensor) -> Condition:
        """The condition of some rows, with repetition."""
        return Condition(self.states[rows], self.mask[rows])

    def null(self) -> Condition:
        """The condition of no caption: states of zeros, as the owner library's guidance has it.

        One place of zeros is attended to, which adds exactly nothing: keys and values have no bias.
        """
        return Condition(torch.zeros_like(self.states[:, :1]), torch.ones_like(self.mask[:, :1]))


def condition(model: nn.Module, ids: Tensor, mask: Tensor) -> Condition:
    """Encode captions ``ids`` ``[B, L]``; a caption without a token (``mask`` all 0) becomes the null condition."""
    whole = unwrap(model)
    attended = mask.masked_fill(mask.sum(-1, keepdim=True) == 0, 1)  # an encoder must not see an empty row
    encoded: Tensor = whole.text_encoder(input_ids=ids, attention_mask=attended)[0]
    if hasattr(whole, "enc_to_dec_proj"):
        encoded = whole.enc_to_dec_proj(encoded)
    seen = encoded * mask[..., None].to(encoded.dtype)
    # Every place of an empty caption holds zeros, so attending to all of them adds nothing either.
    return Condition(seen, attended)


def decoder_body(model: nn.Module) -> Any:
    """The decoder without its heads."""
    return unwrap(model).decoder.model.decoder


def heads(model: nn.Module) -> nn.ModuleList:
    """One linear layer per codebook."""
    found: nn.ModuleList = unwrap(model).decoder.lm_heads
    return found


def states(model: nn.Module, given: Condition, columns: Tensor, guidance: float) -> tuple[Tensor, Tensor]:
    """Run the decoder over input tokens ``columns`` ``[B, K, S]``.

    Returns the captioned branch's states ``[B, S, H]``, and the states that the heads read.  Guidance
    ``u + s (c - u)`` of logits is the same sum of states, because heads are linear: with ``s = 1`` both are one.

    *Reference:* Ho and Salimans, Classifier-Free Diffusion Guidance (2022), arXiv:2207.12598.
    """
    if guidance == 1:
        captioned = _run(model, given, columns)
        return captioned, captioned
    if null_trains(model):
        null = given.null()
        width = given.states.shape[1] - null.states.shape[1]
        both = Condition(
            torch.cat([given.states, nn.functional.pad(null.states, (0, 0, 0, width))]),
            torch.cat([given.mask, nn.functional.pad(null.mask, (0, width))]),
        )
        captioned, free = _run(model, both, columns.repeat(2, 1, 1)).chunk(2)
    else:
        captioned = _run(model, given, columns)
        with torch.no_grad():
            free = _run(model, given.null(), columns)
    return captioned, free + guidance * (captioned - free)


def null_trains(model: nn.Module) -> bool:
    """Whether training moves the null branch: not when only cross-attention (or the text side) trains.

    Without a caption cross-attention adds exactly zero, so its weights have no part in that branch: LoRA on
    ``encoder_attn`` alone leaves the null branch of guidance where it was, bit for bit.
    """
    body = decoder_body(model)
    moving = (name for name, parameter in body.named_parameters() if parameter.requires_grad)
    return any(".encoder_attn." not in f".{name}" for name in moving)


def _run(model: nn.Module, given: Condition, columns: Tensor) -> Tensor:
    last: Tensor = decoder_body(model)(
        input_ids=columns.flatten(0, 1),
        encoder_hidden_states=given.states,
        encoder_attention_mask=given.mask,
        use_cache=False,
    )[0]
    return last
