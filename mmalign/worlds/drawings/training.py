"""Training the drawer from nothing: rendered pictures, the denoising loss, and a look at validation prompts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mmalign.rng import derive_seed, numpy_generator
from mmalign.worlds.drawings.habits import habitual
from mmalign.worlds.drawings.muon import MuonAdamW
from mmalign.worlds.drawings.pipeline import DrawingPipeline
from mmalign.worlds.drawings.prompts import Wish, draw_wish
from mmalign.worlds.drawings.scene import draw_array, scene_for
from mmalign.worlds.drawings.templates import match_templates
from mmalign.worlds.drawings.verdict import judge

__all__ = ["DrawerPlan", "Pool", "drawer_loss", "make_optimizer", "make_pool", "pictures_of", "probe", "rate"]


@dataclass(frozen=True)
class DrawerPlan:
    """Everything that decides a base: seed, sizes, steps, rates."""

    seed: int = 0
    pictures: int = 60_000
    extra: float = 0.35
    exchanged: float = 0.3
    width: int = 160
    layers: int = 5
    batch: int = 128
    steps: int = 2200
    lr: float = 0.02
    lr_others: float = 2e-3
    warmup: int = 50
    decay_share: float = 0.5
    dropout: float = 0.1
    weight_cap: float = 6.0


@dataclass(frozen=True)
class Pool:
    """Training pictures drawn once: ``pixels`` ``[N, 3, 32, 32]`` bytes, token ``ids`` and ``mask`` ``[N, L]``."""

    pixels: Tensor
    ids: Tensor
    mask: Tensor


def make_pool(pipeline: DrawingPipeline, plan: DrawerPlan) -> Pool:
    """Draw ``plan.pictures`` training prompts with a picture each, as careless as the plan's habits."""
    rng, careless = (numpy_generator(plan.seed, "drawings", part) for part in ("pool", "habits"))
    wanted = [draw_wish("train", rng) for _ in range(plan.pictures)]
    scenes = [
        habitual(
            scene_for(wish, derive_seed(plan.seed, "pool", i), "train"),
            wish,
            extra=plan.extra,
            exchanged=plan.exchanged,
            rng=careless,
        )
        for i, wish in enumerate(wanted)
    ]
    pixels = torch.from_numpy(np.stack([draw_array(scene) for scene in scenes])).permute(0, 3, 1, 2)
    encoded = pipeline.tokenizer([wish.text for wish in wanted], padding="max_length", return_tensors="pt")
    return Pool(pixels.contiguous(), encoded["input_ids"], encoded["attention_mask"])


def drawer_loss(pipeline: DrawingPipeline, pool: Pool, plan: DrawerPlan, step: int) -> Tensor:
    """The weighted denoising loss of one batch; the draw depends on the plan's seed and ``step`` alone.

    The network predicts the clean picture; its squared error is weighted by ``min(1 / (1 - abar), cap)``, which is the
    squared error of v capped at ``cap`` times that of the picture.  Timesteps are stratified over the batch, and a
    share ``dropout`` of the prompts is empty.
    """
    rng = numpy_generator(plan.seed, "drawer", step)
    size, steps = plan.batch, pipeline.scheduler.config.num_train_timesteps
    chosen = torch.from_numpy(rng.integers(len(pool.ids), size=size))
    t = torch.from_numpy(((rng.permutation(size) + rng.random(size)) * steps / size).astype(np.int64))
    noise = torch.from_numpy(rng.standard_normal((size, *pool.pixels.shape[1:]), np.float32))
    null = pipeline.tokenizer("", padding="max_length", return_tensors="pt")
    drop = torch.from_numpy(rng.random(size) < plan.dropout)[:, None]
    ids = torch.where(drop, null["input_ids"], pool.ids[chosen])
    mask = torch.where(drop, null["attention_mask"], pool.mask[chosen])
    clean = pool.pixels[chosen].float() / 127.5 - 1
    noisy = pipeline.scheduler.add_noise(clean, noise, t)
    hidden = pipeline.text_encoder(ids, attention_mask=mask).last_hidden_state
    out = pipeline.transformer(noisy, t, hidden, encoder_attention_mask=mask, return_dict=False)[0]
    spread = 1 - pipeline.scheduler.alphas_cumprod[t]
    weight = (1 / spread).clamp(max=plan.weight_cap)
    return (weight * (out - clean).square().mean((1, 2, 3))).mean()


def make_optimizer(modules: Sequence[nn.Module], plan: DrawerPlan) -> MuonAdamW:
    """Muon on the matrices of the transformer's blocks and of the text encoder's layers, AdamW on the rest."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for module in modules:
        for name, p in module.named_parameters():
            inner = p.ndim == 2 and (".layers." in name or "blocks." in name) and "table" not in name
            (matrices if inner else others).append(p)
    return MuonAdamW(matrices, others, lr=plan.lr, lr_others=plan.lr_others)


def rate(plan: DrawerPlan, step: int) -> float:
    """Share of the learning rates at ``step``: linear warm-up, constant, linear decay to 2 %."""
    start = plan.steps * (1 - plan.decay_share)
    down = (step - start) / max(plan.steps - start, 1)
    return min((step + 1) / plan.warmup, 1.0, 1 - 0.98 * max(down, 0.0))


def pictures_of(
    pipeline: DrawingPipeline,
    prompts: Sequence[str],
    seed: int,
    *,
    steps: int = 10,
    guidance: float = 1.0,
    eta: float = 1.0,
) -> NDArray[np.uint8]:
    """Draw one picture per prompt as bytes ``[N, 32, 32, 3]``; the noise depends on ``seed``."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "drawer", "probe"))
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline(  # type: ignore[union-attr]
        list(prompts),
        num_inference_steps=steps,
        guidance_scale=guidance,
        eta=eta,
        generator=generator,
        output_type="np",
    ).images
    pixels: NDArray[np.uint8] = (drawn * 255).round().astype(np.uint8)
    return pixels


def probe(wishes: Sequence[Wish], pictures: NDArray[np.uint8]) -> dict[str, float]:
    """Exact share (and that of each prompt kind), bound recall, and shares of pictures with extras or unread cells."""
    sums: dict[str, list[float]] = defaultdict(list)
    for wish, reading in zip(wishes, match_templates(pictures), strict=True):
        counts = judge(wish, reading)
        sums["exact"].append(counts["exact"])
        sums[f"exact/{wish.kind}"].append(counts["exact"])
        sums["bound_recall"].append(counts["matched"] / counts["wanted"])
        sums["extra"].append(counts["extra"] > 0)
        sums["unreadable"].append(counts["unreadable"] > 0)
    return {name: round(float(np.mean(values)), 4) for name, values in sorted(sums.items())}
