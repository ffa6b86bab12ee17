"""What the starting models are trained on: rendered training scenes and rows drawn anew each time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mmalign.rng import derive_seed, numpy_generator
from mmalign.worlds.scenes.captions import CaptionNoise, caption, short_caption
from mmalign.worlds.scenes.model import IMAGE_TOKENS, word_ids
from mmalign.worlds.scenes.questions import ask_many
from mmalign.worlds.scenes.render import render_array
from mmalign.worlds.scenes.scene import GRID, Scene, generate
from mmalign.worlds.scenes.words import CAPTION_PROMPT, CLASSES, CLEAN_PROMPT, COLORS, SIZES, TEXTURES

__all__ = ["IDS", "Pool", "PretrainPlan", "batches", "encode_turns", "make_pool"]

IDS = word_ids()
"""Token id of every word."""
_EOS, _ANSWER_WEIGHT = IDS["</s>"], 2.0


@dataclass(frozen=True)
class PretrainPlan:
    """Everything that decides a base: seeds, sizes, steps, rates, the mix and the noise."""

    seed: int = 0
    scenes: int = 40_000
    vision_steps: int = 1500
    vision_batch: int = 64
    language_steps: int = 3200
    batch: int = 32
    lr: float = 2e-3
    vision_lr_scale: float = 0.3
    mix: tuple[float, float, float] = (0.35, 0.1, 0.55)
    questions: int = 6
    grounding: float = 1.0
    grounding_layer: int = 2
    noise: CaptionNoise = field(default_factory=CaptionNoise)


@dataclass(frozen=True)
class Pool:
    """Training scenes drawn once: ``pixels`` ``[N, 64, 64, 3]`` bytes and two label tables.

    ``cells`` ``[N, 16, 4]``: class, colour, size and texture of the object in a cell, -100 without one
    (the class label is 8 for an empty cell).  ``classes`` ``[N, 8, 5]``: for every class its number of
    objects (3 for more), then cell, colour, size and texture where it stands there once, else -100.
    """

    scenes: Sequence[Scene]
    pixels: Tensor
    cells: Tensor
    classes: Tensor


def make_pool(n: int, seed: int) -> Pool:
    """Draw and render ``n`` training scenes."""
    scenes = [generate(derive_seed(seed, "pretrain", i), "train") for i in range(n)]
    pixels = torch.from_numpy(np.stack([render_array(s) for s in scenes]))
    cells = torch.full((n, GRID * GRID, 4), -100)
    cells[:, :, 0] = len(CLASSES)
    classes = torch.full((n, len(CLASSES), 5), -100)
    for i, scene in enumerate(scenes):
        classes[i, :, 0] = torch.tensor([min(scene.count(c), 3) for c in CLASSES])
        for o in scene.objects:
            labels = (
                CLASSES.index(o.cls),
                COLORS.index(o.color),
                SIZES.index(o.size),
                TEXTURES.index(o.texture),
            )
            cells[i, o.row * GRID + o.col] = torch.tensor(labels)
            if scene.count(o.cls) == 1:
                own = torch.tensor((o.row * GRID + o.col, *labels[1:]))
                classes[i, CLASSES.index(o.cls), 1:] = own
    return Pool(scenes, pixels, cells, classes)


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
