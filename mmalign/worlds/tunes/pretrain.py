"""Makes the shipped starting model: next-code training of the MusicGen, in two lessons of captions that err.

In the first lesson captions err at random only, so every word gets a meaning of its own.  In the second, eight values
are taken for one another in most mentions: the model still tells such words apart and follows the wrong one from habit.
Guidance and temperature only sharpen the habit, reward can mend it.  With habits of 45 % from the first step on the two
words of a pair never came to differ, and nothing that was tried afterwards could tell them apart.  One caption in ten
is left out, as classifier-free guidance needs it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import MusicgenForConditionalGeneration

from mmalign.rng import generator
from mmalign.worlds.tunes.captions import CaptionNoise
from mmalign.worlds.tunes.codec import CODEBOOKS, CODES
from mmalign.worlds.tunes.corpus import batch_places, caption_ids
from mmalign.worlds.tunes.fitting import fit
from mmalign.worlds.tunes.tune import Tune

__all__ = ["PretrainPlan", "code_loss", "delayed", "draw", "pretrain", "text_states"]


@dataclass(frozen=True, slots=True)
class PretrainPlan:
    """How the base is trained.

    Args:
        seed: of weights, batches and captions.
        pieces: pieces of the training split.
        steps: optimisation steps of ``batch`` pieces.
        batch: pieces in a step.
        lr: highest learning rate.
        lessons: how captions go wrong, and from which step on.
        steady: share of the steps at the highest learning rate.
        null: share of pieces whose caption is left out.
    """

    seed: int = 0
    pieces: int = 16_000
    steps: int = 1750
    batch: int = 64
    lr: float = 1.5e-3
    lessons: tuple[tuple[int, CaptionNoise], ...] = (
        (0, CaptionNoise(habit=0.0, random=0.15)),
        (1250, CaptionNoise()),
    )
    steady: float = 0.9
    null: float = 0.1


def delayed(codes: Tensor) -> tuple[Tensor, Tensor]:
    """Delay pattern of codes ``[B, K, T]``: tokens ``[B, K, T + K]`` from the start column on, and where codes stand.

    *Reference:* Copet et al., MusicGen (2023), arXiv:2306.05284, section 2.2, as transformers lays it out.
    """
    count, books, steps = codes.shape
    tokens = torch.full((count, books, steps + books), CODES)
    for k in range(books):
        tokens[:, k, k + 1 : k + 1 + steps] = codes[:, k]
    return tokens, tokens != CODES


def text_states(model: MusicgenForConditionalGeneration, ids: Tensor, mask: Tensor, null: Tensor) -> Tensor:
    """What the decoder attends to, ``[B, L, H]``: zeros at padding and everywhere where ``null`` ``[B]`` is true."""
    states = model.enc_to_dec_proj(model.text_encoder(input_ids=ids, attention_mask=mask)[0])
    return states * (mask * ~null[:, None])[..., None].to(states.dtype)


def code_loss(
    model: MusicgenForConditionalGeneration, codes: Tensor, ids: Tensor, mask: Tensor, null: Tensor
) -> Tensor:
    """Mean cross-entropy ``[K]`` (nats) of every codebook of codes ``[B, K, T]`` under captions."""
    tokens, real = delayed(codes)
    hidden = model.decoder.model.decoder(
        input_ids=tokens[..., :-1].flatten(0, 1),
        encoder_hidden_states=text_states(model, ids, mask, null),
        encoder_attention_mask=mask,
        use_cache=False,
    )[0]
    losses = []
    for k, head in enumerate(model.decoder.lm_heads):
        here = real[0, k, 1:]
        logits = head(hidden[:, here])
        losses.append(functional.cross_entropy(logits.flatten(0, 1), tokens[:, k, 1:][:, here].flatten()))
    return torch.stack(losses)


def pretrain(
    model: MusicgenForConditionalGeneration,
    codes: Tensor,
    tunes: tuple[Tune, ...],
    plan: PretrainPlan,
    *,
    checkpoint: Path | None = None,
    every: int = 250,
    after: Callable[[int, float], None] | None = None,
) -> float:
    """Train on codes ``[N, K, T]`` of ``tunes``; returns CPU seconds.  A stopped run goes on from ``checkpoint``."""
    assert codes.shape[1] == CODEBOOKS
    model.audio_encoder.requires_grad_(False)

    def loss_at(step: int) -> Tensor:
        places = batch_places(len(tunes), plan.batch, plan.seed, step, "pretrain")
        noise = [noise for first, noise in plan.lessons if first <= step][-1]
        ids, mask = caption_ids([tunes[i] for i in places.tolist()], noise, plan.seed, step)
        null = torch.rand(plan.batch, generator=generator(plan.seed, "tunes", "null", step)) < plan.null
        return code_loss(model, codes[places].long(), ids, mask, null).mean()

    return fit(
        model,
        loss_at,
        steps=plan.steps,
        lr=plan.lr,
        steady=plan.steady,
        checkpoint=checkpoint,
        every=every,
        after=after,
    )


@torch.no_grad()
def draw(
    model: MusicgenForConditionalGeneration,
    ids: Tensor,
    mask: Tensor,
    rng: torch.Generator,
    *,
    temperature: float = 1.0,
    guidance: float = 1.0,
    steps: int = 25,
) -> Tensor:
    """Codes ``[B, K, T]`` under captions, by a plain loop with the decoder's cache.

    ``guidance`` scales the captioned logits against those without a caption, as transformers' ``guidance_scale``.
    """
    from transformers import DynamicCache, EncoderDecoderCache

    count, books = len(ids), model.decoder.num_codebooks
    given = text_states(model, ids, mask, torch.zeros(count, dtype=torch.bool))
    if guidance != 1:
        given, mask = torch.cat([given, torch.zeros_like(given)]), torch.cat([mask, mask])
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    column = torch.full((count, books), CODES)
    columns = []
    for t in range(steps + books - 1):
        tokens = column if guidance == 1 else column.repeat(2, 1)
        hidden = model.decoder.model.decoder(
            input_ids=tokens.reshape(-1, 1),
            encoder_hidden_states=given,
            encoder_attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
        )[0][:, -1]
        logits = torch.stack([head(hidden) for head in model.decoder.lm_heads], dim=1)
        if guidance != 1:
            captioned, free = logits.chunk(2)
            logits = free + guidance * (captioned - free)
        chances = torch.softmax(logits / temperature, dim=-1).flatten(0, 1)
        drawn = torch.multinomial(chances, 1, generator=rng).view(count, books)
        place = torch.arange(books)
        column = torch.where((t >= place) & (t < place + steps), drawn, torch.tensor(CODES))
        columns.append(column)
    laid = torch.stack(columns, dim=2)
    return torch.stack([laid[:, k, k : k + steps] for k in range(books)], dim=1)
