"""Training a small open_clip model on drawings, with hard negatives that differ from the truth in one fact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmalign.rng import derive_seed, numpy_generator
from mmalign.worlds.drawings.data import flawed, flaws_of
from mmalign.worlds.drawings.model import CONTEXT, word_ids
from mmalign.worlds.drawings.prompts import CLASSES, COLORS, THINGS, Wish, draw_wish
from mmalign.worlds.drawings.scene import GRID, SIDE, draw_array, scene_for, stands
from mmalign.worlds.scenes.scene import Scene
from mmalign.worlds.scenes.words import OPPOSITE, RELATIONS

__all__ = [
    "CONFIG",
    "MEAN",
    "STD",
    "Examples",
    "contrastive_loss",
    "encoded",
    "examples",
    "fits",
    "make_dual",
    "negatives",
    "place_loss",
    "two_way",
]

MEAN, STD = (0.22, 0.2, 0.2), (0.21, 0.19, 0.19)
"""Normalisation of pixels in 0..1."""
CONFIG: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": SIDE, "layers": 3, "width": 96, "head_width": 32, "patch_size": 8},
    "text_cfg": {
        "context_length": CONTEXT,
        "vocab_size": len(word_ids()),
        "width": 96,
        "heads": 3,
        "layers": 2,
        "hf_tokenizer_name": "local",
    },
}
"""Sizes of the open_clip model, in open_clip's own terms."""


def make_dual(seed: int) -> Any:
    """A randomly initialised ``open_clip.CLIP`` of 0.7 M parameters."""
    import open_clip

    torch.manual_seed(seed)
    return open_clip.CLIP(**CONFIG)


def fits(wish: Wish, scene: Scene) -> bool:
    """Whether the scene is exactly what the wish asks for."""
    same = sorted(wish.things) == sorted((o.color, o.cls) for o in scene.objects)
    return same and (not wish.relation or stands(wish, scene))


def negatives(wish: Wish, scene: Scene, rng: np.random.Generator) -> list[Wish]:
    """Up to three wishes near ``wish`` that ``scene`` does not fit: another colour, another class, and the hardest one.

    The hardest is the opposite relation or another one that does not hold, else exchanged colours (or classes), else
    another number.
    """
    found = []
    for kind in range(2):
        k = int(rng.integers(len(wish.things)))
        color, cls = wish.things[k]
        values = [v for v in (COLORS if kind == 0 else CLASSES) if v not in (color, cls)]
        new = values[int(rng.integers(len(values)))]
        thing = (new, cls) if kind == 0 else (color, new)
        things = tuple(
            thing if i == k or other == wish.things[k] else other for i, other in enumerate(wish.things)
        )
        found.append(replace(wish, things=things))
    found.append(_hardest(wish, scene, rng))
    return [near for near in found if not fits(near, scene) and _sayable(near)]


def _sayable(wish: Wish) -> bool:
    """Whether a prompt can ask for it: different objects, or alike ones without a relation."""
    distinct = len(set(wish.things))
    return distinct == len(wish.things) or (distinct == 1 and not wish.relation)


def _hardest(wish: Wish, scene: Scene, rng: np.random.Generator) -> Wish:
    if wish.relation:
        if rng.random() < 0.5:
            return replace(wish, relation=OPPOSITE[wish.relation])
        wrong = [r for r in RELATIONS if not stands(replace(wish, relation=r), scene)]
        return replace(wish, relation=wrong[int(rng.integers(len(wrong)))])
    if wish.kind == "and":
        (c0, s0), (c1, s1) = wish.things
        return Wish(((c1, s0), (c0, s1))) if c0 != c1 and s0 != s1 else Wish((wish.things[0],))
    sizes = [n for n in (1, 2, 3) if n != len(wish.things)]
    return Wish(wish.things[:1] * sizes[int(rng.integers(2))])


@dataclass(frozen=True)
class Examples:
    """A batch: ``pixels`` ``[M, 3, 32, 32]`` bytes of M pictures, texts ``[K]``, and ``true`` ``[M, K]`` (bool).

    Picture ``i`` was drawn for text ``i`` for the first ``n``; the other pictures and texts are hard negatives.
    ``places`` ``[M, 4]`` is what stands in every cell: an index of ``THINGS``, or 16 for nothing.
    """

    pixels: Tensor
    texts: Sequence[str]
    true: Tensor
    places: Tensor
    n: int


def examples(n: int, seed: int, split: str = "train") -> Examples:
    """``n`` prompts with a true picture and a flawed one each, and their near-miss texts."""
    rng = numpy_generator(seed, "drawings", "dual", split)
    scenes: list[Scene] = []
    wrong: list[Scene] = []
    wanted: list[Wish] = []
    near: list[Wish] = []
    for i in range(n):
        wish = draw_wish(split, rng)
        scene = scene_for(wish, derive_seed(seed, "dual", i), split)
        options = flaws_of(wish)
        flaw = (
            "relation" if wish.relation and rng.random() < 0.5 else options[int(rng.integers(len(options)))]
        )
        wanted.append(wish)
        scenes.append(scene)
        wrong.append(flawed(scene, wish, flaw, rng))
        near += negatives(wish, scene, rng)
    every, texts = scenes + wrong, wanted + near
    by_things: dict[Any, list[int]] = {}
    for k, wish in enumerate(texts):
        by_things.setdefault(tuple(sorted(wish.things)), []).append(k)
    true = torch.zeros(len(every), len(texts), dtype=torch.bool)
    for m, scene in enumerate(every):
        for k in by_things.get(tuple(sorted((o.color, o.cls) for o in scene.objects)), ()):
            true[m, k] = fits(texts[k], scene)
    places = torch.full((len(every), GRID**2), len(THINGS))
    for m, scene in enumerate(every):
        for o in scene.objects:
            places[m, o.row * GRID + o.col] = THINGS.index((o.color, o.cls))
    pixels = torch.from_numpy(np.stack([draw_array(scene) for scene in every])).permute(0, 3, 1, 2)
    return Examples(pixels, [wish.text for wish in texts], true, places, n)


def encoded(model: Any, tokens: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors of pictures (bytes) and texts."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    images = (pixels.float() / 255 - mean) / std
    return model.encode_image(images, normalize=True), model.encode_text(tokens, normalize=True)


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor, batch: Examples) -> Tensor:
    """Contrastive loss both ways, where a text that is also true of a picture never counts as its negative.

    *Reference* Radford et al. 2021 (arXiv:2103.00020); hard negatives of both sides as in Yuksekgonul et al. 2022
    (arXiv:2210.01936), here exact because truth is known.

    Args:
        images: unit vectors ``[M, D]``.
        texts: unit vectors ``[K, D]``.
        scale: factor on cosines.
        batch: whose pictures and texts they are.
    """
    scores = scale * images @ texts.T
    own = torch.arange(batch.n)
    other = batch.true.clone()
    other[own, own] = False
    scores = scores.masked_fill(other, float("-inf"))
    return (F.cross_entropy(scores[: batch.n], own) + F.cross_entropy(scores.T[: batch.n], own)) / 2


def place_loss(head: nn.Linear, images: Tensor, texts: Tensor, batch: Examples) -> Tensor:
    """How well one linear ``head`` reads from a picture's vector, and from its text's, what stands in which cell.

    It is dropped after training.  Without it the model stays blind to relations: places matter to neither encoder until
    they matter to the other.  A text leaves places open, so its part ends at the entropy of what it leaves open.
    """
    vectors = torch.cat([images, texts[: batch.n]])
    places = torch.cat([batch.places, batch.places[: batch.n]])
    read = head(vectors * vectors.shape[1] ** 0.5).unflatten(1, (GRID**2, len(THINGS) + 1))
    return F.cross_entropy(read.flatten(0, 1), places.flatten())


@torch.no_grad()
def two_way(model: Any, tokenizer: Any, n: int, seed: int, split: str) -> dict[str, float]:
    """How often a true picture scores above the same picture with one fact wrong, by the wrong fact."""
    rng = numpy_generator(seed, "drawings", "two-way", split)
    right: dict[str, list[bool]] = {}
    for i in range(n):
        wish = draw_wish(split, rng)
        scene = scene_for(wish, derive_seed(seed, "two-way", i), split)
        for flaw in flaws_of(wish):
            bad = flawed(scene, wish, flaw, rng)
            pixels = torch.from_numpy(np.stack([draw_array(scene), draw_array(bad)])).permute(0, 3, 1, 2)
            images, texts = encoded(model, tokenizer([wish.text]), pixels)
            good, worse = (images @ texts.T)[:, 0].tolist()
            right.setdefault(flaw, []).append(good > worse)
    return {flaw: round(float(np.mean(values)), 4) for flaw, values in right.items()}
