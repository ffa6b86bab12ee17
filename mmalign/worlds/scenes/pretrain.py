"""Makes the shipped starting models: a vision phase with a label per patch, then joint language training.

The captions answer the caption prompt with systematic noise; every other prompt is answered truthfully.
So the model knows what a picture shows and yet describes it from habit, which reward can mend.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlavaForConditionalGeneration

from mmalign.rng import numpy_generator
from mmalign.worlds.scenes.corpus import IDS, Pool, PretrainPlan, batches
from mmalign.worlds.scenes.model import PIXEL_MEAN, PIXEL_STD
from mmalign.worlds.scenes.scene import GRID
from mmalign.worlds.scenes.words import CLASSES, COLORS, PLURALS, SIZES, TEXTURES

__all__ = ["forward", "image_features", "normalise", "train_language", "train_vision"]


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


def _word_groups() -> list[Tensor]:
    """Token ids of the words a cell may be called: class (<unk>: empty), colour, size, texture."""
    groups = ((*CLASSES, "<unk>"), COLORS, SIZES, TEXTURES)
    return [torch.tensor([IDS[word] for word in group]) for group in groups]


def train_vision(
    model: LlavaForConditionalGeneration, pool: Pool, plan: PretrainPlan, log: Callable[[str], None] = print
) -> dict[str, float]:
    """Phase V: each image token is drawn to the words of what its cell shows, and keeps its own place.

    The projected token ``[B, 16, H]`` is scored against the decoder's embeddings of the words, so that
    the decoder later meets image tokens that already look like their words.  Returns the accuracy of
    each label over the last fifty batches.
    """
    embedding, groups = model.model.language_model.embed_tokens, _word_groups()
    places = nn.ModuleList([nn.Linear(embedding.embedding_dim, GRID) for _ in range(2)])
    seen_parts = (model.model.vision_tower, model.model.multi_modal_projector, embedding, places)
    params = [p for part in seen_parts for p in part.parameters()]
    optimizer = _optimizer([{"params": params, "lr": plan.lr}])
    rng = numpy_generator(plan.seed, "pretrain", "vision")
    place = torch.stack(torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")).flatten(1)
    hits, seen, start = torch.zeros(4), torch.zeros(4), time.process_time()
    for step in range(plan.vision_steps):
        index = torch.from_numpy(rng.integers(len(pool.scenes), size=plan.vision_batch))
        features = image_features(model, normalise(pool.pixels[index]))
        labels = pool.cells[index]
        loss = torch.zeros(())
        for k, words in enumerate(groups):
            logits, target = features @ embedding.weight[words].T, labels[..., k]
            loss = loss + functional.cross_entropy(logits.flatten(0, 1), target.reshape(-1))
            if step >= plan.vision_steps - 50:
                real = labels[..., 1] >= 0
                hits[k] += ((logits.argmax(-1) == target) & real).sum()
                seen[k] += real.sum()
        for head, truth in zip(places, place, strict=True):
            target = truth.expand(len(index), -1).reshape(-1)
            loss = loss + 0.1 * functional.cross_entropy(head(features).flatten(0, 1), target)
        _step(optimizer, loss, params, _schedule(step, plan.vision_steps))
        if step % 250 == 0:
            log(f"vision step {step} loss {loss.item():.3f} cpu {time.process_time() - start:.0f} s")
    names = ("class", "color", "size", "texture")
    return {name: round(float(h / s.clamp(min=1)), 4) for name, h, s in zip(names, hits, seen, strict=True)}


class _Grounding(nn.Module):
    """Auxiliary heads, thrown away afterwards: a class word's state says how many, where and what.

    They read the state at every class word of the text, of question and answer alike, after
    ``grounding_layer`` decoder layers.  Without them the look-up from word to image token, on which
    every question rests, is found only after very many rows.
    """

    def __init__(self, model: LlavaForConditionalGeneration, layer: int) -> None:
        super().__init__()
        width = model.config.text_config.hidden_size
        sizes = (4, GRID * GRID, len(COLORS), len(SIZES), len(TEXTURES))
        self.heads = nn.ModuleList([nn.Linear(width, s) for s in sizes])
        self.state = torch.empty(0)
        self.index = torch.full((len(IDS),), -1)
        for c, name in enumerate(CLASSES):
            self.index[IDS[name]] = self.index[IDS[PLURALS[name]]] = c
        self.hook = model.model.language_model.layers[layer - 1].register_forward_hook(self._keep)

    def _keep(self, _module: nn.Module, _args: object, output: Tensor) -> None:
        self.state = output if isinstance(output, Tensor) else output[0]

    def loss(self, ids: Tensor, classes: Tensor) -> Tensor:
        """Mean cross-entropy (nats) of the heads; ``ids`` ``[B, L]``, ``classes`` ``[B, 8, 5]``."""
        word = self.index[ids]
        rows, cols = (word >= 0).nonzero(as_tuple=True)
        states, targets = self.state[rows, cols], classes[rows, word[rows, cols]]
        self.state, total = torch.empty(0), torch.zeros(())
        for k, head in enumerate(self.heads):
            known = targets[:, k] >= 0
            if known.any():
                total = total + functional.cross_entropy(head(states[known]), targets[known, k])
        return total / len(self.heads)


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
    grounding = _Grounding(model, plan.grounding_layer)
    rest = [p for p in (*model.parameters(), *grounding.parameters()) if id(p) not in held]
    groups = [{"params": rest, "lr": plan.lr}, {"params": tower, "lr": plan.lr * plan.vision_lr_scale}]
    optimizer = _optimizer(groups)
    stream, start, running = batches(pool, plan), time.process_time(), torch.zeros(2)
    for step in range(plan.language_steps):
        index, ids, weights = next(stream)
        features = image_features(model, normalise(pool.pixels[index]))
        hidden = forward(model, ids, features)
        rows, cols = (weights[:, 1:] > 0).nonzero(as_tuple=True)
        logits = model.lm_head(hidden[rows, cols])
        losses = functional.cross_entropy(logits, ids[rows, cols + 1], reduction="none")
        w = weights[rows, cols + 1]
        loss = (losses * w).sum() / w.sum()
        extra = grounding.loss(ids, pool.classes[index])
        _step(optimizer, loss + plan.grounding * extra, [*rest, *tower], _schedule(step, plan.language_steps))
        running += torch.stack((loss.detach(), extra.detach()))
        if (step + 1) % 100 == 0:
            means, cpu = (running / 100).tolist(), time.process_time() - start
            log(f"language step {step + 1} loss {means[0]:.4f} grounding {means[1]:.4f} cpu {cpu:.0f} s")
            running.zero_()
        if after is not None:
            after(step + 1)
    grounding.hook.remove()
