"""Nets that listen: the judge of attributes, and the ear whose features the Frechet distance compares.

Both learn from pieces of every combination, in streams of their own, half of each batch through the codec, so that they
judge what the codec can express.  The ear is another net of another seed and stream than the judge.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmalign.errors import UserError
from mmalign.rng import generator
from mmalign.worlds.tunes.bands import BANDS, FLOOR, FRAMES
from mmalign.worlds.tunes.codec import BandCodec
from mmalign.worlds.tunes.corpus import Pool, batch_places, labels_of
from mmalign.worlds.tunes.fitting import fit
from mmalign.worlds.tunes.tune import ATTRIBUTES

__all__ = [
    "EAR",
    "JUDGE",
    "Listener",
    "ListenerPlan",
    "Trunk",
    "accuracy",
    "attributes_heard",
    "load_weights",
    "save_net",
    "train_listener",
]

JUDGE, EAR = (Path(__file__).parent / "nets" / f"{name}.safetensors" for name in ("judge", "ear"))
"""Weights of the shipped judge (64 features) and ear (32 features)."""
_MEAN, _SCALE = -2.3, 2.6
_SILENCE = (math.log(FLOOR) - _MEAN) / _SCALE


class Trunk(nn.Module):
    """Log bands ``[B, F, BANDS]`` to features ``[B, D]``: three convolutions, then one layer that knows pitch and time.

    Args:
        width: channels of the first convolution.
        features: size of the output.
    """

    def __init__(self, width: int = 24, features: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 5, 2, 2),
            nn.GELU(),
            nn.Conv2d(width, 2 * width, 3, 2, 1),
            nn.GELU(),
            nn.Conv2d(2 * width, 3 * width, 3, 2, 1),
            nn.GELU(),
            nn.Conv2d(3 * width, 16, 1),
            nn.Flatten(),
            nn.Linear(16 * -(-FRAMES // 8) * (BANDS // 8), features),
            nn.GELU(),
        )

    def forward(self, bands: Tensor) -> Tensor:
        """Features; pieces are cut to the world's two seconds or padded with silence."""
        bands = bands[:, :FRAMES]
        bands = functional.pad((bands - _MEAN) / _SCALE, (0, 0, 0, FRAMES - bands.shape[1]), value=_SILENCE)
        found: Tensor = self.layers(bands[:, None])
        return found


class Listener(nn.Module):
    """Log bands ``[B, F, BANDS]`` to logits of every attribute's values; sizes as :class:`Trunk`."""

    def __init__(self, width: int = 24, features: int = 64) -> None:
        super().__init__()
        self.trunk = Trunk(width, features)
        self.head = nn.Linear(features, sum(map(len, ATTRIBUTES.values())))

    def forward(self, bands: Tensor) -> dict[str, Tensor]:
        """Attribute -> logits ``[B, values]``."""
        logits = self.head(self.trunk(bands)).split([len(v) for v in ATTRIBUTES.values()], dim=1)
        return dict(zip(ATTRIBUTES, logits, strict=True))

    @classmethod
    def load(cls, path: Path) -> Listener:
        """Read weights written by :func:`save_net`.

        Raises:
            UserError: when there is no such file.
        """
        weights = load_weights(path)
        model = cls(len(weights["trunk.layers.0.weight"]), weights["head.weight"].shape[1])
        model.load_state_dict(weights)
        return model.eval()


def load_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        UserError: when there is no such file.
    """
    from safetensors.torch import load_file

    if not path.is_file():
        raise UserError(f"{path}: no weights here; scripts/train_musician.py makes them")
    weights: dict[str, Tensor] = load_file(path)
    return weights


def save_net(model: nn.Module, path: Path) -> None:
    """Write a net's weights as safetensors."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: part.contiguous() for name, part in model.state_dict().items()}, path)
    path.chmod(0o644)


@dataclass(frozen=True, slots=True)
class ListenerPlan:
    """How a listener is trained: pieces, steps of ``batch``, learning rate, sizes of the net."""

    seed: int = 0
    stream: str = "judge"
    pieces: int = 3500
    steps: int = 600
    batch: int = 64
    lr: float = 2e-3
    width: int = 24
    features: int = 64


def train_listener(
    plan: ListenerPlan, pool: Pool, codec: BandCodec, after: Callable[[int, float], None] | None = None
) -> tuple[Listener, float]:
    """Train on ``pool``; returns the net and the CPU seconds."""
    torch.manual_seed(plan.seed)
    model = Listener(plan.width, plan.features)
    labels, codes = labels_of(pool.tunes), pool.codes(codec)

    def loss_at(step: int) -> Tensor:
        places = batch_places(len(pool), plan.batch, plan.seed, step, plan.stream)
        half = plan.batch // 2
        bands = torch.cat([pool.bands[places[:half]].float(), codec.bands(codes[places[half:]].long())])
        rng = generator(plan.seed, plan.stream, step)
        bands = bands + 0.15 * torch.randn(bands.shape, generator=rng)
        bands = bands + 0.2 * torch.randn((len(bands), 1, 1), generator=rng)
        heard = model(bands)
        parts = [
            functional.cross_entropy(logits, labels[places, k]) for k, logits in enumerate(heard.values())
        ]
        return torch.stack(parts).sum()

    cpu = fit(model, loss_at, steps=plan.steps, lr=plan.lr, after=after)
    return model, cpu


@torch.no_grad()
def attributes_heard(model: Listener, bands: Tensor) -> list[dict[str, str]]:
    """The most probable value of every attribute, per piece of ``[B, F, BANDS]``."""
    found: list[dict[str, str]] = [{} for _ in bands]
    for part in range(0, len(bands), 128):
        for name, logits in model(bands[part : part + 128].float()).items():
            for row, best in zip(found[part:], logits.argmax(1).tolist(), strict=False):
                row[name] = ATTRIBUTES[name][best]
    return found


def accuracy(heard: Sequence[dict[str, str]], truth: Sequence[dict[str, str]]) -> dict[str, float]:
    """Share of pieces of which each attribute was heard right, and their mean."""
    shares = {
        name: sum(h[name] == t[name] for h, t in zip(heard, truth, strict=True)) / len(truth)
        for name in ATTRIBUTES
    }
    return {**shares, "mean": sum(shares.values()) / len(shares)}
