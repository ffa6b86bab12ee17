"""A net that guesses how good a piece sounds, 1 to 5, from pieces that were damaged on purpose.

No human rated anything: the label is ``5 - 4 * severity`` of the damage, so the net knows these kinds of damage and no
others.  Read it beside the Frechet distance and the exact adherence, never alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmalign.rng import generator
from mmalign.worlds.tunes.bands import BANDS, FLOOR
from mmalign.worlds.tunes.codec import PATCH, BandCodec
from mmalign.worlds.tunes.corpus import Pool, batch_places
from mmalign.worlds.tunes.fitting import fit
from mmalign.worlds.tunes.listener import Trunk, load_weights

__all__ = ["DAMAGES", "QUALITY", "Quality", "QualityPlan", "damaged", "train_quality"]

QUALITY = Path(__file__).parent / "nets" / "quality.safetensors"
"""Weights of the shipped net."""
DAMAGES = ("wrong codes", "shuffled", "noise", "gaps", "dull")
"""Kinds of damage."""
_WIDTH, _FEATURES = 12, 48


class Quality(nn.Module):
    """Log bands ``[B, F, BANDS]`` to a mean opinion score ``[B]``, clipped to its label range 1..5 when it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = Trunk(_WIDTH, _FEATURES)
        self.head = nn.Linear(_FEATURES, 1)

    def forward(self, bands: Tensor) -> Tensor:
        """The score before clipping."""
        return 3 + 2 * self.head(self.trunk(bands)).squeeze(-1)

    def score(self, bands: Tensor) -> Tensor:
        """The score, clipped to 1..5."""
        return self(bands).clamp(1, 5)

    @classmethod
    def load(cls, path: Path = QUALITY) -> Quality:
        """The shipped net, or one of another file."""
        model = cls()
        model.load_state_dict(load_weights(path))
        return model.eval()


def damaged(codes: Tensor, codec: BandCodec, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Bands ``[B, F, BANDS]`` of codes ``[B, K, T]`` with one kind of damage each, and their severity ``[B]`` in 0..1.

    A fifth of the pieces is left as it is (severity 0).
    """
    count = len(codes)
    severity = torch.rand(count, generator=rng)
    severity = torch.where(torch.rand(count, generator=rng) < 0.2, torch.zeros(()), severity)
    kind = torch.randint(len(DAMAGES), (count,), generator=rng)
    size = codec.books.shape[1]
    share = torch.where(kind == 0, 0.6 * severity, torch.zeros(()))[:, None, None]
    wrong = torch.rand(codes.shape, generator=rng) < share
    codes = torch.where(wrong, torch.randint(size, codes.shape, generator=rng), codes)
    share = torch.where(kind == 1, severity, torch.zeros(()))[:, None]
    steps = codes.shape[2]
    moved = torch.rand((count, steps), generator=rng) < share
    order = torch.rand((count, steps), generator=rng).masked_fill(~moved, math.inf)
    places = torch.arange(steps).repeat(count, 1)
    targets = places.masked_fill(~moved, steps).sort(1).values
    sources = order.argsort(1)
    for row in range(count):
        n = int(moved[row].sum())
        places[row, targets[row, :n]] = sources[row, :n]
    codes = codes.gather(2, places[:, None].expand_as(codes))
    return _worn(codec.bands(codes), kind, severity, rng), severity


def _worn(bands: Tensor, kind: Tensor, severity: Tensor, rng: torch.Generator) -> Tensor:
    """Noise, gaps and a missing treble, where ``kind`` says so."""

    def where(place: int) -> Tensor:
        return torch.where(kind == place, severity, torch.zeros(()))[:, None, None]

    loudness = bands.exp().mean((1, 2), keepdim=True)
    hiss = where(2) * 1.5 * loudness * torch.rand(bands.shape, generator=rng)
    bands = torch.log(bands.exp() + hiss)
    steps = bands.shape[1] // PATCH
    silent = torch.rand((len(bands), steps, 1), generator=rng) < 0.6 * where(3)
    silent = silent.repeat_interleave(PATCH, 1)
    bands = bands[:, : steps * PATCH].masked_fill(silent, math.log(FLOOR))
    slope = torch.linspace(0, 1, BANDS)[None, None]
    return (bands - 8 * where(4) * slope).clamp(min=math.log(FLOOR))


@dataclass(frozen=True, slots=True)
class QualityPlan:
    """How the quality net is trained."""

    seed: int = 3
    pieces: int = 2000
    steps: int = 400
    batch: int = 64
    lr: float = 2e-3


def train_quality(
    plan: QualityPlan, pool: Pool, codec: BandCodec, after: Callable[[int, float], None] | None = None
) -> tuple[Quality, float]:
    """Train on damaged pieces by Huber's loss; returns the net and the CPU seconds."""
    torch.manual_seed(plan.seed)
    model, codes = Quality(), pool.codes(codec)

    def loss_at(step: int) -> Tensor:
        places = batch_places(len(pool), plan.batch, plan.seed, step, "quality")
        bands, severity = damaged(codes[places].long(), codec, generator(plan.seed, "quality", step))
        return functional.huber_loss(model(bands), 5 - 4 * severity, delta=0.5)

    cpu = fit(model, loss_at, steps=plan.steps, lr=plan.lr, after=after)
    return model, cpu
