"""A small convolutional encoder of frames, and two rewards on it: by transport to an expert, and a plain score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mmalign.errors import UserError
from mmalign.objectives.optimal_transport import (
    alignment_loss,
    cosine_cost,
    sinkhorn_plan,
    transport_distance,
    transport_reward,
)
from mmalign.objectives.reward_model import bradley_terry

__all__ = ["CONTRAST", "SIZE", "AlignedEncoder", "Comparison", "FrameEncoder", "FrameScore", "pixel_features"]

SIZE = 64
"""Numbers of an embedding."""
CONTRAST = 4.0
"""What pictures are multiplied by once their mean grey is taken off."""


@dataclass(frozen=True)
class Comparison:
    """One label: of two videos ``[F, 3, H, W]`` the first is better, seen beside an expert's (``anchor``)."""

    anchor: Tensor
    preferred: Tensor
    other: Tensor


class FrameEncoder(nn.Module):
    """Frames ``[N, 3, 32, 32]`` to embeddings ``[N, 64]``; about 48,000 parameters."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = nn.Sequential(
                nn.Conv2d(3, 16, 5, stride=2, padding=2),
                nn.SiLU(),
                nn.Conv2d(16, 32, 3, stride=2, padding=1),
                nn.SiLU(),
                nn.Conv2d(32, 32, 3, stride=2, padding=1),
                nn.SiLU(),
                nn.Flatten(),
                nn.Linear(32 * 4 * 4, SIZE),
            )

    def forward(self, frames: Tensor) -> Tensor:
        """Embed frames; the mean grey of a picture is taken off first."""
        embedded: Tensor = self.net(CONTRAST * (frames - 0.8))
        return embedded

    def read(self, folder: Path) -> None:
        """Take the weights of a pre-trained encoder, as ``scripts/train_eye.py`` writes them.

        Raises:
            UserError: when the folder holds none that fits.
        """
        from safetensors.torch import load_file

        file = folder / "model.safetensors"
        if not file.is_file():
            raise UserError(
                f"reward_model.model_name_or_path: {folder} has no model.safetensors; "
                "expected an encoder of frames such as embedded:eye"
            )
        weights, own = load_file(file), self.state_dict()
        if {k: v.shape for k, v in weights.items()} != {k: v.shape for k, v in own.items()}:
            raise UserError(
                f"reward_model.model_name_or_path: {file} is no encoder of frames; expected one such as embedded:eye"
            )
        self.load_state_dict(weights)

    def videos(self, videos: Tensor) -> Tensor:
        """``[B, F, 3, H, W]`` to ``[B, F, 64]``."""
        return self(videos.flatten(0, 1)).unflatten(0, videos.shape[:2])


class AlignedEncoder(nn.Module):
    """RAPL's representation: trained so that an expert's video lies nearer to the better of two.

    Args:
        seed: of the weights.
        epsilon: entropy of the transport plan.
        iterations: of Sinkhorn.
        scale: of distances in the alignment loss.
    """

    def __init__(
        self, seed: int = 0, epsilon: float = 0.05, iterations: int = 30, scale: float = 20.0
    ) -> None:
        super().__init__()
        self.encoder = FrameEncoder(seed)
        self.epsilon, self.iterations, self.scale = epsilon, iterations, scale

    def loss(self, items: Sequence[Comparison]) -> tuple[Tensor, dict[str, float]]:
        """Mean alignment loss of labels, and the share it gets right."""
        parts = [
            torch.stack([getattr(item, name) for item in items]) for name in ("anchor", "preferred", "other")
        ]
        anchor, preferred, other = self.encoder.videos(torch.cat(parts)).chunk(3)
        near, far = (
            transport_distance(video, anchor, self.epsilon, self.iterations) for video in (preferred, other)
        )
        return alignment_loss(near, far, self.scale), {"accuracy": float((near < far).float().mean())}

    @torch.no_grad()
    def rewards(self, frames: Tensor, experts: Tensor) -> Tensor:
        """Reward ``[F]`` of every frame ``[F, 3, H, W]`` by transport to expert videos ``[K, S, 3, H, W]``, meaned.

        The whole video must be there: the plan of one frame depends on all others.
        """
        return self.paid(self.encoder(frames), self.encoder.videos(experts))

    def paid(self, seen: Tensor, experts: Tensor) -> Tensor:
        """The same from embeddings ``[F, D]`` and ``[K, S, D]``."""
        cost = cosine_cost(seen.expand(len(experts), *seen.shape), experts)
        plan = sinkhorn_plan(cost, self.epsilon, self.iterations)
        return transport_reward(plan, cost).mean(0)


class FrameScore(nn.Module):
    """The plain preference reward: a score per frame on the same encoder, trained by Bradley-Terry on the same labels.

    Args:
        seed: of the weights.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.encoder = FrameEncoder(seed)
        self.head = nn.Linear(SIZE, 1)
        with torch.no_grad():
            self.head.weight.zero_()
            self.head.bias.zero_()

    @torch.no_grad()
    def centre(self, frames: Tensor) -> None:
        """Make the mean score of ``frames`` 0: Bradley-Terry leaves the zero free, an episode's end does not."""
        self.head.bias.sub_(self.rewards(frames).mean())

    def loss(self, items: Sequence[Comparison]) -> tuple[Tensor, dict[str, float]]:
        """Mean Bradley-Terry loss of summed scores, and the share it gets right."""
        parts = [torch.stack([getattr(item, name) for item in items]) for name in ("preferred", "other")]
        better, worse = self.head(self.encoder.videos(torch.cat(parts))).squeeze(-1).sum(1).chunk(2)
        return bradley_terry(better, worse), {"accuracy": float((better > worse).float().mean())}

    @torch.no_grad()
    def rewards(self, frames: Tensor) -> Tensor:
        """Score ``[F]`` of every frame."""
        scores: Tensor = self.head(self.encoder(frames)).squeeze(-1)
        return scores


def pixel_features(frames: Tensor) -> Tensor:
    """Frames ``[..., 3, H, W]`` as vectors of their pixels, mean colour taken off: transport without learning."""
    return (frames - 0.8).flatten(-3)
