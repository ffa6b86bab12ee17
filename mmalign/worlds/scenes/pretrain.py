"""Makes the shipped starting models: a vision phase with a label per patch, then joint language training.

The captions answer the caption prompt with systematic noise; every other prompt is answered truthfully.
So the model knows what a picture shows and yet describes it from habit, which reward can mend.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlavaForConditionalGeneration

from mmalign.rng import derive_seed, numpy_generator
from mmalign.worlds.scenes.captions import CaptionNoise, caption, short_caption
from mmalign.worlds.scenes.model import IMAGE_TOKENS, PIXEL_MEAN, PIXEL_STD, word_ids
from mmalign.worlds.scenes.questions import ask_many
from mmalign.worlds.scenes.render import render_array
from mmalign.worlds.scenes.scene import GRID, Scene, generate
from mmalign.worlds.scenes.words import (
    CAPTION_PROMPT,
    CLASSES,
    CLEAN_PROMPT,
    COLORS,
    SIZES,
    TEXTURES,
)

__all__ = [
    "Pool",
    "PretrainPlan",
    "encode_turns",
    "forward",
    "image_features",
    "make_pool",
    "train_language",
    "train_vision",
]

IDS = word_ids()
_EOS, _ANSWER_WEIGHT = IDS["</s>"], 2.0


@dataclass(frozen=True)
class PretrainPlan:
    """Everything that decides a base: seeds, sizes, steps, rates, the mix and the noise."""

    seed: int = 0
    scenes: int = 40_000
    vision_steps: int = 2000
    vision_batch: int = 64
    language_steps: int = 6000
    batch: int = 32
    lr: float = 2e-3
    vision_lr_scale: float = 0.3
    mix: tuple[float, float, float] = (0.45, 0.15, 0.4)
    questions: int = 6
    noise: CaptionNoise = field(default_factory=CaptionNoise)


@dataclass(frozen=True)
class Pool:
    """Training scenes drawn once: ``pixels`` ``[N, 64, 64, 3]`` bytes, ``cells`` ``[N, 16, 4]`` labels.

    The four labels of a cell are class, colour, size and texture of the object in it, -100 without one
    (the class label is 8 for an empty cell).
    """

    scenes: Sequence[Scene]
    pixels: Tensor
    cells: Tensor


def make_pool(n: int, seed: int) -> Pool:
    """Draw and render ``n`` training scenes."""
    scenes = [generate(derive_seed(seed, "pretrain", i), "train") for i in range(n)]
    pixels = torch.from_numpy(np.stack([render_array(s) for s in scenes]))
    cells = torch.full((n, GRID * GRID, 4), -100)
    cells[:, :, 0] = len(CLASSES)
    for i, scene in enumerate(scenes):
        for o in scene.objects:
            labels = (
                CLASSES.index(o.cls),
                COLORS.index(o.color),
                SIZES.index(o.size),
                TEXTURES.index(o.texture),
            )
            cells[i, o.row * GRID + o.col] = torch.tensor(labels)
    return Pool(scenes, pixels, cells)


def normalise(pixels: Tensor) -> Tensor:
    """Bytes ``[B, 64, 64, 3]`` to the ``[B, 3, 64, 64]`` floats that the image processor makes."""
    return (pixels.permute(0, 3, 1, 2).float() / 255 - PIXEL_MEAN) / PIXEL_STD


def patch_states(model: LlavaForConditionalGeneration, pixels: Tensor) -> Tensor:
    """Last hidden state of the vision tower, ``[B, 16, H]``, one per grid cell."""
    return model.model.vision_tower(pixel_values=pixels).last_hidden_state[:, 1:]


def image_features(model: LlavaForConditionalGeneration, pixels: Tensor) -> Tensor:
    """Projected image tokens ``[B, 16, H]`` for normalised pixels."""
    return model.model.multi_modal_projector(patch_states(model, pixels))


def forward(model: LlavaForConditionalGeneration, ids: Tensor, features: Tensor) -> Tensor:
    """Hidden states ``[B, L, H]`` of right-padded ``ids`` ``[B, L]`` with image tokens filled in."""
    embeds = model.model.language_model.embed_tokens(ids)
    slots = (ids == IDS["<image>"]).unsqueeze(-1).expand_as(embeds)
    embeds = embeds.masked_scatter(slots, features.to(embeds.dtype))
    return model.model.language_model(
        inputs_embeds=embeds, attention_mask=None, use_cache=False
    ).last_hidden_state


def encode_turns(turns: Sequence[tuple[str, str]]) -> tuple[list[int], list[float]]:
    """Token ids and loss weights of a chat whose first question shows the picture.

    The layout equals the chat template's; answers (with their end token) carry the loss, and the
    words of a short answer count double.
    """
    ids, weights = [IDS["<s>"]], [0.0]
    for k, (question, answer) in enumerate(turns):
        head = [
            "user",
            ":",
            *(["<image>"] * IMAGE_TOKENS if k == 0 else []),
            *question.split(),
            "assistant",
            ":",
        ]
        reply = [IDS[w] for w in answer.split()]
        ids += [IDS[w] for w in head] + reply + [_EOS]
        weight = _ANSWER_WEIGHT if len(reply) <= 4 else 1.0
        weights += [0.0] * len(head) + [weight] * len(reply) + [1.0 if weight == 1.0 else 0.2]
    return ids, weights


def _draw(scene: Scene, plan: PretrainPlan, rng: np.random.Generator) -> tuple[list[int], list[float]]:
    kind = rng.choice(3, p=plan.mix)
    if kind == 0:
        return encode_turns([(CAPTION_PROMPT, caption(scene, rng, plan.noise))])
    if kind == 1:
        return encode_turns([(CLEAN_PROMPT, short_caption(scene, rng))])
    return encode_turns([(q.text, q.answer) for q in ask_many(scene, plan.questions, rng)])


def batches(pool: Pool, plan: PretrainPlan) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Endless length-bucketed batches: scene indices ``[B]``, ids ``[B, L]``, loss weights ``[B, L]``."""
    rng, buckets = numpy_generator(plan.seed, "pretrain", "rows"), 8
    order: list[int] = []
    while True:
        if len(order) < buckets * plan.batch:
            order += [int(i) for i in rng.permutation(len(pool.scenes))]
        chosen, order = order[: buckets * plan.batch], order[buckets * plan.batch :]
        rows = [(i, *_draw(pool.scenes[i], plan, rng)) for i in chosen]
        rows.sort(key=lambda row: len(row[1]))
        for b in rng.permutation(buckets):
            part = rows[b * plan.batch : (b + 1) * plan.batch]
            length = len(part[-1][1])
            ids = torch.zeros(len(part), length, dtype=torch.long)
            weights = torch.zeros(len(part), length)
            for r, (_, tokens, w) in enumerate(part):
                ids[r, : len(tokens)] = torch.tensor(tokens)
                weights[r, : len(w)] = torch.tensor(w)
            yield torch.tensor([row[0] for row in part]), ids, weights


def _schedule(step: int, total: int, warmup: int = 100) -> float:
    """Cosine decay from 1 to 0.02 after a linear warm-up."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def _optimizer(groups: Sequence[Mapping[str, object]]) -> torch.optim.AdamW:
    optimizer = torch.optim.AdamW(list(groups), betas=(0.9, 0.98), weight_decay=0.01, fused=True)  # type: ignore[arg-type]
    for group in optimizer.param_groups:
        group["base_lr"] = group["lr"]
    return optimizer


def _step(optimizer: torch.optim.AdamW, loss: Tensor, params: Sequence[nn.Parameter], scale: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * scale
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(params, 1.0)
    optimizer.step()


def train_vision(
    model: LlavaForConditionalGeneration, pool: Pool, plan: PretrainPlan, log: Callable[[str], None] = print
) -> dict[str, float]:
    """Phase V: each patch token names the class, colour, size and texture of its cell and its own place.

    Returns the accuracy of each label over the last fifty batches.
    """
    width = model.config.vision_config.hidden_size
    sizes = (len(CLASSES) + 1, len(COLORS), len(SIZES), len(TEXTURES), GRID, GRID)
    heads = nn.ModuleList([nn.Linear(width, s) for s in sizes])
    params = [*model.model.vision_tower.parameters(), *heads.parameters()]
    optimizer = _optimizer([{"params": params, "lr": plan.lr}])
    rng = numpy_generator(plan.seed, "pretrain", "vision")
    place = torch.stack(torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")).flatten(1)
    hits, seen, start = torch.zeros(4), torch.zeros(4), time.process_time()
    for step in range(plan.vision_steps):
        index = torch.from_numpy(rng.integers(len(pool.scenes), size=plan.vision_batch))
        states = patch_states(model, normalise(pool.pixels[index]))
        labels = pool.cells[index]
        loss = torch.zeros(())
        for k, head in enumerate(heads):
            target = labels[..., k] if k < 4 else place[k - 4].expand(len(index), -1)
            logits = head(states)
            scale = 1.0 if k < 4 else 0.1
            loss = loss + scale * functional.cross_entropy(logits.flatten(0, 1), target.reshape(-1))
            if k < 4 and step >= plan.vision_steps - 50:
                real = (labels[..., 1] >= 0) & (target >= 0)
                hits[k] += ((logits.argmax(-1) == target) & real).sum()
                seen[k] += real.sum()
        _step(optimizer, loss, params, _schedule(step, plan.vision_steps))
        if step % 250 == 0:
            log(f"vision step {step} loss {loss.item():.3f} cpu {time.process_time() - start:.0f} s")
    names = ("class", "color", "size", "texture")
    return {name: round(float(h / s.clamp(min=1)), 4) for name, h, s in zip(names, hits, seen, strict=True)}


def train_language(
    model: LlavaForConditionalGeneration,
    pool: Pool,
    plan: PretrainPlan,
    log: Callable[[str], None] = print,
    after: Callable[[int], None] | None = None,
) -> None:
    """Phase L: next-token training on captions, short captions and questions; ``after(step)`` may probe."""
    tower = list(model.model.vision_tower.parameters())
    held = {id(p) for p in tower}
    rest = [p for p in model.parameters() if id(p) not in held]
    groups = [{"params": rest, "lr": plan.lr}, {"params": tower, "lr": plan.lr * plan.vision_lr_scale}]
    optimizer = _optimizer(groups)
    stream, start, running = batches(pool, plan), time.process_time(), 0.0
    for step in range(plan.language_steps):
        index, ids, weights = next(stream)
        features = image_features(model, normalise(pool.pixels[index]))
        hidden = forward(model, ids, features)
        rows, cols = (weights[:, 1:] > 0).nonzero(as_tuple=True)
        logits = model.lm_head(hidden[rows, cols])
        losses = functional.cross_entropy(logits, ids[rows, cols + 1], reduction="none")
        w = weights[rows, cols + 1]
        loss = (losses * w).sum() / w.sum()
        _step(optimizer, loss, [*rest, *tower], _schedule(step, plan.language_steps))
        running += float(loss.detach())
        if (step + 1) % 100 == 0:
            log(f"language step {step + 1} loss {running / 100:.4f} cpu {time.process_time() - start:.0f} s")
            running = 0.0
        if after is not None:
            after(step + 1)
