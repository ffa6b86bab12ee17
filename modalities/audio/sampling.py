"""Drawing codes step by step with a key-value cache: a caption's first pass is shared by its samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache

from mmalign.modalities.audio.parts import Condition, decoder_body, heads
from mmalign.modalities.audio.pattern import DelayPattern
from mmalign.modalities.audio.scoring import head_logits
from mmalign.modalities.tokens.kv import roomy_cache
from mmalign.modalities.tokens.sampling import choose_tokens, inference

__all__ = ["CodeDraw", "draw_codes"]

_TURNED = 2**26
"""Heads of at most this many weights in all are laid out anew for decoding."""


@dataclass(frozen=True, slots=True)
class CodeDraw:
    """Raw samples: ``codes`` ``[B, F, K]`` and behaviour log-probabilities ``logp`` ``[B, T]`` in nats."""

    codes: Tensor
    logp: Tensor


def draw_codes(
    model: nn.Module,
    given: Condition,
    noise: Tensor,
    n: int,
    pattern: DelayPattern,
    frames: int,
    *,
    temperature: float,
    guidance: float,
    counted: int | None = None,
) -> CodeDraw:
    """Draw ``n`` answers of ``frames`` frames for each of the ``R`` captions in ``given``.

    ``noise`` ``[R * n, T * K]`` holds one uniform number per code, so that an answer depends on its own numbers
    alone.  Temperature 0 is greedy; its log-probabilities are those of temperature 1.  Only the first ``counted``
    codebooks (all of them by default) count in the log-probabilities.
    """
    steps, books = frames + pattern.extra, pattern.codebooks
    with inference(model):
        state = _begin(model, given, n, pattern, steps, guidance)
        logits_of = _all_heads(model)
        tokens = torch.full((len(noise), books, steps), pattern.special, dtype=torch.long)
        logp = torch.zeros((len(noise), steps))
        valid = pattern.valid([frames], steps)[0]
        for step in range(steps):
            drawn = valid[:, step].nonzero()[:, 0]
            logits = logits_of(state.read(guidance), drawn)
            uniform = noise[:, step * books : (step + 1) * books][:, drawn]
            code, value = choose_tokens(logits.flatten(0, 1), uniform.flatten(), temperature)
            tokens[:, drawn, step] = code.view(-1, len(drawn)).cpu()
            own = drawn < (books if counted is None else counted)
            logp[:, step] = value.view(-1, len(drawn))[:, own].sum(-1).cpu()
            if step + 1 < steps:
                state.advance(model, tokens[:, :, step].to(logits.device))
    return CodeDraw(pattern.undelayed(tokens), logp)


@dataclass(slots=True)
class _State:
    """What the loop carries: the cache, the conditions of all branches, the last hidden states ``[B or 2 B, H]``."""

    cache: Any
    given: Condition
    hidden: Tensor
    branches: int

    def read(self, guidance: float) -> Tensor:
        """What the heads read: the captioned states, or the guided sum of both branches."""
        if self.branches == 1:
            return self.hidden
        captioned, free = self.hidden.chunk(2)
        return free + guidance * (captioned - free)

    def advance(self, model: nn.Module, column: Tensor) -> None:
        """Read one drawn column ``[B, K]``."""
        column = column.repeat(self.branches, 1)
        self.hidden = _forward(model, column, self.given, self.cache)

    def spread(self, n: int) -> None:
        """``n`` copies of every caption, side by side, in every branch."""
        rows = torch.arange(len(self.hidden), device=self.hidden.device).repeat_interleave(n)
        self.cache.reorder_cache(rows)
        self.hidden, self.given = self.hidden[rows], self.given.take(rows)


def _begin(
    model: nn.Module, given: Condition, n: int, pattern: DelayPattern, steps: int, guidance: float
) -> _State:
    branches = 1 if guidance == 1 else 2
    if branches == 2:
        given = Condition(
            torch.cat([given.states, torch.zeros_like(given.states)]),
            torch.cat([given.mask, torch.ones_like(given.mask)]),
        )
    config = decoder_body(model).config
    cache = EncoderDecoderCache(roomy_cache(config, steps), DynamicCache(config=config))
    first = torch.full(
        (len(given.states), pattern.codebooks), pattern.special, dtype=torch.long, device=given.states.device
    )
    state = _State(cache, given, _forward(model, first, given, cache), branches)
    if n > 1:
        state.spread(n)
    return state


def _forward(model: nn.Module, column: Tensor, given: Condition, cache: Any) -> Tensor:
    out = decoder_body(model)(
        input_ids=column.reshape(-1, 1),
        encoder_hidden_states=given.states,
        encoder_attention_mask=given.mask,
        past_key_values=cache,
        use_cache=True,
    )
    hidden: Tensor = out[0][:, -1]
    return hidden


def _all_heads(model: nn.Module) -> Any:
    """``(states [B, H], books) -> logits [B, len(books), V]``; plain heads are one product, laid out for few rows."""
    found: list[Any] = list(heads(model))
    plain = all(type(head) is nn.Linear and head.bias is None for head in found)
    size = sum(head.weight.numel() for head in found) if plain else 0
    if not plain or size > _TURNED:
        return lambda states, books: torch.stack([head_logits(found[k], states) for k in books.tolist()], 1)
    turned = torch.stack([head.weight.detach().t() for head in found]).contiguous()  # [K, H, V]

    def logits(states: Tensor, books: Tensor) -> Tensor:
        some = turned if len(books) == len(turned) else turned[int(books[0]) : int(books[-1]) + 1]
        return torch.matmul(states[None], some).transpose(0, 1).float()

    return logits
