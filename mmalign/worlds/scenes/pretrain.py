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
from mmalign.worlds.scenes.words import CLASSES, COLORS, PLURALS, RELATIONS, SIZES, TEXTURES

__all__ = [
    "forward",
    "image_features",
    "normalise",
    "said_relations",
    "said_values",
    "train_language",
    "train_vision",
]


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


def _value_positions(ids: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Where a text has said an attribute of a class: rows, columns, class, kind (1..3) and value.

    Either a class word right after one of its values (small red circle: judged at circle) or a value
    after its class (the circle is red, is the circle red: judged at red).
    """
    cls, kind, value = (table[ids] for table in _TABLES)
    verb = torch.isin(ids, torch.tensor([IDS["is"], IDS["looks"]]))
    before, before2 = torch.roll(cls, 1, 1), torch.roll(cls, 2, 1)
    named = torch.where(before >= 0, before, torch.where(torch.roll(verb, 1, 1), before2, torch.tensor(-1)))
    late = (kind > 0) & (named >= 0)
    early = (cls >= 0) & (torch.roll(kind, 1, 1) > 0)
    rows, cols = (late | early).nonzero(as_tuple=True)
    first = early[rows, cols]
    said_kind = torch.where(first, kind[rows, cols - 1], kind[rows, cols])
    said_value = torch.where(first, value[rows, cols - 1], value[rows, cols])
    return rows, cols, torch.where(first, cls[rows, cols], named[rows, cols]), said_kind, said_value


def _relation_positions(ids: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Where a text has just related two classes: rows, columns, first class, second class, relation.

    The relation indexes ``RELATIONS``; questions (is the A above the B) and statements both count.
    """
    cls, the = _TABLES[0][ids], IDS["the"]
    back = [torch.roll(ids, k, 1) for k in range(7)]
    named = [torch.roll(cls, k, 1) for k in range(7)]
    verb = [torch.isin(b, torch.tensor([IDS["is"], IDS["lies"]])) for b in back]
    first, relation = torch.full_like(ids, -1), torch.full_like(ids, -1)
    for r, name in enumerate(RELATIONS):
        words = [IDS[w] for w in reversed(name.split())]
        said = (cls >= 0) & (back[1] == the)
        for k, word in enumerate(words, start=2):
            said = said & (back[k] == word)
        k = 2 + len(words)
        subject = torch.where(verb[k], named[k + 1], named[k])
        hit = said & (subject >= 0)
        first, relation = torch.where(hit, subject, first), torch.where(hit, r, relation)
    rows, cols = (relation >= 0).nonzero(as_tuple=True)
    return rows, cols, first[rows, cols], cls[rows, cols], relation[rows, cols]


def _tables() -> tuple[Tensor, Tensor, Tensor]:
    """Per token id: class index or -1, attribute kind (1 colour, 2 size, 3 texture) or 0, value index."""
    cls, kind, value = (torch.full((len(IDS),), fill) for fill in (-1, 0, -1))
    for c, name in enumerate(CLASSES):
        cls[IDS[name]] = cls[IDS[PLURALS[name]]] = c
    for k, values in enumerate((COLORS, SIZES, TEXTURES), start=1):
        for v, word in enumerate(values):
            kind[IDS[word]], value[IDS[word]] = k, v
    return cls, kind, value


_TABLES = _tables()


def said_values(ids: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, columns and truth of the attribute statements about classes that stand there once."""
    rows, cols, cls, kind, value = _value_positions(ids)
    shown = classes[rows, cls, kind + 1]
    known = shown >= 0
    return rows[known], cols[known], (shown == value)[known]


def said_relations(ids: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, columns and truth of the relation statements that can be judged from the cells."""
    rows, cols, first, second, relation = _relation_positions(ids)
    a, b = classes[rows, first, 1], classes[rows, second, 1]
    across = torch.where(relation < 2, b % GRID - a % GRID, b // GRID - a // GRID)
    ahead = torch.where(relation % 2 == 0, across, -across)
    known = (a >= 0) & (b >= 0) & (across != 0)
    return rows[known], cols[known], (ahead > 0)[known]


class _Grounding(nn.Module):
    """Auxiliary heads, thrown away afterwards, that read decoder states against the scene's truth.

    A class word's state (after ``grounding_layer`` layers) says how many, where and what; one layer
    later the state that completes an attribute or relation statement says whether it holds.  Without them the
    look-up from word to image token, on which every question rests, is found only after very many rows.
    """

    def __init__(self, model: LlavaForConditionalGeneration, layer: int) -> None:
        super().__init__()
        width = model.lm_head.in_features
        sizes = (4, GRID * GRID, len(COLORS), len(SIZES), len(TEXTURES))
        self.heads = nn.ModuleList([nn.Linear(width, s) for s in sizes])
        self.verdict = nn.Linear(width, 1)
        self.states: list[Tensor] = []
        layers = model.model.language_model.layers
        chosen = (layers[layer - 1], layers[min(layer, len(layers) - 1)])
        self.hooks = [block.register_forward_hook(self._keep) for block in chosen]

    def _keep(self, _module: nn.Module, _args: object, output: Tensor) -> None:
        self.states = [*self.states[-1:], output if isinstance(output, Tensor) else output[0]]

    def close(self) -> None:
        """Detach from the model."""
        self.states = []
        for hook in self.hooks:
            hook.remove()

    def loss(self, ids: Tensor, classes: Tensor) -> Tensor:
        """Mean cross-entropies (nats) of look-up, values and relations ``[3]``; ``classes`` is ``[B, 8, 5]``."""
        (early, late), self.states = self.states, []
        word = _TABLES[0][ids]
        rows, cols = (word >= 0).nonzero(as_tuple=True)
        states, targets = early[rows, cols], classes[rows, word[rows, cols]]
        total = torch.zeros(())
        for k, head in enumerate(self.heads):
            known = targets[:, k] >= 0
            if known.any():
                total = total + functional.cross_entropy(head(states[known]), targets[known, k])
        judged = [
            self._judge(late, *part) for part in (said_values(ids, classes), said_relations(ids, classes))
        ]
        return torch.stack((total / len(self.heads), *judged))

    def _judge(self, states: Tensor, rows: Tensor, cols: Tensor, truth: Tensor) -> Tensor:
        """Cross-entropy of the verdicts on statements that end at (rows, cols)."""
        if len(rows) == 0:
            return torch.zeros(())
        logits = self.verdict(states[rows, cols]).squeeze(-1)
        return functional.binary_cross_entropy_with_logits(logits, truth.float())


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
    stream, start, running = batches(pool, plan), time.process_time(), torch.zeros(4)
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
        _step(
            optimizer,
            loss + plan.grounding * extra.sum(),
            [*rest, *tower],
            _schedule(step, plan.language_steps),
        )
        running += torch.cat((loss.detach()[None], extra.detach()))
        if (step + 1) % 100 == 0:
            means, cpu = (running / 100).tolist(), time.process_time() - start
            parts = "loss {:.4f} look-up {:.4f} value {:.4f} relation {:.4f}".format(*means)
            log(f"language step {step + 1} {parts} cpu {cpu:.0f} s")
            running.zero_()
        if after is not None:
            after(step + 1)
    grounding.close()
