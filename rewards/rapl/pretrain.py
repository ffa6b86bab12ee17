"""Pre-training the eye: an autoencoder of unlabelled frames, whose encoder rewards of few labels start from."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmalign.rewards.rapl.encoder import CONTRAST, SIZE, FrameEncoder

__all__ = ["pretrain"]


class _Decoder(nn.Module):
    """Embeddings ``[N, 64]`` to pictures ``[N, 3, 32, 32]``."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(SIZE, 32 * 4 * 4),
            nn.SiLU(),
            nn.Unflatten(1, (32, 4, 4)),
            nn.ConvTranspose2d(32, 32, 4, 2, 1),
            nn.SiLU(),
            nn.ConvTranspose2d(32, 16, 4, 2, 1),
            nn.SiLU(),
            nn.ConvTranspose2d(16, 3, 4, 2, 1),
        )

    def forward(self, embedded: Tensor) -> Tensor:
        """The pictures, less their mean."""
        pictures: Tensor = self.net(embedded)
        return pictures


def pretrain(
    frames: Tensor, held_out: Tensor, *, steps: int, batch: int, learning_rate: float, seed: int
) -> tuple[FrameEncoder, float]:
    """Train an encoder so that a decoder can draw the frames from its embeddings.

    The embeddings are then centred and scaled to a mean standard deviation of 1 over ``frames``: a cosine between
    embeddings that share a large mean says nothing.

    Args:
        frames: ``[N, 3, 32, 32]`` in [0, 1].
        held_out: frames to measure on, of the same shape.
        steps: optimiser steps; the rate falls along a cosine.
        batch: frames per step.
        learning_rate: at the start.
        seed: of weights and order.

    Returns:
        The encoder, and the share of the held-out variance that the drawings explain.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder, decoder = FrameEncoder(seed), _Decoder()
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    mean, rng = frames.mean(0), torch.Generator().manual_seed(seed)
    for _ in range(steps):
        seen = frames[torch.randint(len(frames), (batch,), generator=rng)]
        loss = functional.mse_loss(decoder(encoder(seen)), CONTRAST * (seen - mean))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        wanted = CONTRAST * (held_out - mean)
        explained = 1.0 - functional.mse_loss(decoder(encoder(held_out)), wanted) / wanted.square().mean()
    _settle(encoder, frames)
    return encoder, float(explained)


@torch.no_grad()
def _settle(encoder: FrameEncoder, frames: Tensor) -> None:
    last = encoder.net[-1]
    assert isinstance(last, nn.Linear)
    embedded = encoder(frames)
    spread = embedded.std(0).mean()
    last.bias.sub_(embedded.mean(0)).div_(spread)
    last.weight.div_(spread)
