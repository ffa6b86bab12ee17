"""A contrastive model of captions and pieces, in the manner of MuLan and CLAP, small enough to ship.

*Reference:* Huang et al., MuLan (2022), arXiv:2208.12415; Radford et al., CLIP (2021), arXiv:2103.00020, for the loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmalign.rng import generator
from mmalign.worlds.tunes.captions import CaptionNoise
from mmalign.worlds.tunes.codec import BandCodec
from mmalign.worlds.tunes.corpus import Pool, batch_places, caption_ids, to_ids
from mmalign.worlds.tunes.fitting import fit
from mmalign.worlds.tunes.listener import Trunk, load_weights
from mmalign.worlds.tunes.model import word_ids

__all__ = ["TOWERS", "Towers", "TowersPlan", "contrastive_loss", "train_towers"]

TOWERS = Path(__file__).parent / "nets" / "towers.safetensors"
"""Weights of the shipped model."""
_WIDTH, _FEATURES, _WORDS, _SPACE = 16, 96, 64, 48


class Towers(nn.Module):
    """Captions and pieces in one space of unit vectors.

    The text tower sums its words (their order does not change what a caption means) and mixes them by a hidden layer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sound = nn.Sequential(Trunk(_WIDTH, _FEATURES), nn.Linear(_FEATURES, _SPACE))
        self.words = nn.Embedding(len(word_ids()), _WORDS, padding_idx=0)
        self.text = nn.Sequential(nn.Linear(_WORDS, 128), nn.GELU(), nn.Linear(128, _SPACE))
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def embed_sound(self, bands: Tensor) -> Tensor:
        """Unit vectors ``[B, D]`` of log bands ``[B, F, BANDS]``."""
        return functional.normalize(self.sound(bands), dim=-1)

    def embed_text(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Unit vectors ``[B, D]`` of token ids and mask ``[B, L]``."""
        summed = (self.words(ids) * mask[..., None]).sum(1)
        return functional.normalize(self.text(summed), dim=-1)

    def cosine(self, captions: Sequence[str], bands: Tensor) -> Tensor:
        """Cosine ``[B]`` of each caption and its piece."""
        ids, mask = to_ids(list(captions))
        return (self.embed_text(ids, mask) * self.embed_sound(bands)).sum(-1)

    @classmethod
    def load(cls, path: Path = TOWERS) -> Towers:
        """The shipped model, or one of another file."""
        model = cls()
        model.load_state_dict(load_weights(path))
        return model.eval()


def contrastive_loss(sounds: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """Symmetric cross-entropy (nats) of matching ``[B, D]`` unit vectors against all others of the batch."""
    logits = scale * sounds @ texts.T
    own = torch.arange(len(logits))
    return (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2


@dataclass(frozen=True, slots=True)
class TowersPlan:
    """How the towers are trained; its captions slip at random and have no habits."""

    seed: int = 2
    pieces: int = 2500
    steps: int = 250
    batch: int = 128
    lr: float = 2e-3
    noise: CaptionNoise = field(default_factory=lambda: CaptionNoise(habit=0.0, random=0.15))


def train_towers(
    plan: TowersPlan, pool: Pool, codec: BandCodec, after: Callable[[int, float], None] | None = None
) -> tuple[Towers, float]:
    """Train on pieces, half of each batch through the codec; returns the model and the CPU seconds."""
    torch.manual_seed(plan.seed)
    model, codes = Towers(), pool.codes(codec)

    def loss_at(step: int) -> Tensor:
        places = batch_places(len(pool), plan.batch, plan.seed, step, "towers")
        half = plan.batch // 2
        bands = torch.cat([pool.bands[places[:half]].float(), codec.bands(codes[places[half:]].long())])
        bands = bands + 0.15 * torch.randn(bands.shape, generator=generator(plan.seed, "towers", step))
        ids, mask = caption_ids([pool.tunes[i] for i in places.tolist()], plan.noise, plan.seed, step)
        scale = model.log_scale.clamp(max=math.log(50.0)).exp()
        return contrastive_loss(model.embed_sound(bands), model.embed_text(ids, mask), scale)

    cpu = fit(model, loss_at, steps=plan.steps, lr=plan.lr, after=after)
    return model, cpu
