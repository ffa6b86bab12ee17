"""Chunks of actions by denoising, with a density for every denoising step.

The answer's steps are pairs (decision, denoising step), flattened in that order; the reward of a chunk's actions is
paid on its last denoising step.

*Reference:* Chi et al., Diffusion Policy (2023), arXiv:2303.04137, for action chunks; Ren et al., DPPO (2024),
arXiv:2409.00588, for the two-level index and the least standard deviation. *Differs from papers:* an MLP predicts the
clean chunk from features, the noisy chunk and the step; the critic sees the observation alone.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mmalign.modalities.robot.heads import Drawn, Scores, gaussian_density
from mmalign.modalities.robot.noise import Noise
from mmalign.modalities.robot.trunks import mlp

__all__ = ["DiffusionHead"]

_EMBEDDING = 16


class DiffusionHead(nn.Module):
    """A denoiser of ``chunk * size`` numbers in ``steps`` steps (DDPM posterior, cosine schedule).

    Args:
        inputs: width of the features.
        size: numbers per action.
        chunk: actions per decision.
        steps: denoising steps.
        min_std: least standard deviation of a step.
        width: width of the denoiser.
    """

    exact = True
    keep: Tensor
    signal: Tensor
    spread: Tensor

    def __init__(self, inputs: int, size: int, *, chunk: int, steps: int, min_std: float, width: int) -> None:
        super().__init__()
        self.size, self.chunk, self.substeps = size, chunk, steps
        self.dims = size * chunk
        self.embedding = nn.Embedding(steps, _EMBEDDING)
        self.net = mlp(inputs + self.dims + _EMBEDDING, width, 2, self.dims)
        bar = _cosine(steps)
        before = torch.cat([torch.ones(1), bar[:-1]])
        ratio = bar / before
        self.register_buffer("signal", before.sqrt() * (1 - ratio) / (1 - bar), persistent=False)
        self.register_buffer("keep", ratio.sqrt() * (1 - before) / (1 - bar), persistent=False)
        variance = (1 - before) / (1 - bar) * (1 - ratio)
        self.register_buffer("spread", variance.sqrt().clamp(min=min_std), persistent=False)
        self.register_buffer("bar", bar, persistent=False)
        self.bar: Tensor

    def draw(self, features: Tensor, noise: Noise, temperature: float) -> Drawn:
        """Draw one chunk each; temperature 0 starts from zeros and takes every mean."""
        start = noise.normal(self.dims).to(features)
        value = torch.zeros_like(start) if temperature == 0 else start
        chain, logp = [value], []
        for place in range(self.substeps):
            level = torch.full((len(features),), self.substeps - 1 - place, device=features.device)
            mean, std = self._step(features, value, level, temperature)
            fresh = noise.normal(self.dims).to(features)
            value = mean if temperature == 0 else mean + std * fresh
            logp.append(gaussian_density(value, mean, std)[0])
            chain.append(value)
        actions = value.clamp(-1.0, 1.0).unflatten(-1, (self.chunk, self.size))
        return Drawn(torch.stack(chain, 1), torch.stack(logp, 1), actions)

    def score(self, features: Tensor, record: Tensor, temperature: float) -> Scores:
        """Score chains ``[N, K + 1, C * A]``, all denoising steps in one pass."""
        n, steps = len(record), self.substeps
        level = torch.arange(steps - 1, -1, -1, device=record.device).repeat(n)
        mean, std = self._step(
            features.repeat_interleave(steps, 0), record[:, :-1].flatten(0, 1), level, temperature
        )
        logp, entropy = gaussian_density(record[:, 1:].flatten(0, 1), mean, std)
        shape = (n, steps, self.dims)
        return Scores(logp.view(n, steps), entropy.view(n, steps), mean.view(shape), std.view(n, steps))

    def error(self, features: Tensor, chunks: Tensor, level: Tensor, noise: Tensor) -> Tensor:
        """Mean squared error ``[N]`` of the clean chunk predicted from ``chunks`` ``[N, C * A]`` at noise ``level``."""
        bar = self.bar[level][:, None]
        noisy = bar.sqrt() * chunks + (1 - bar).sqrt() * noise
        return (self._clean(features, noisy, level) - chunks).square().mean(-1)

    def _clean(self, features: Tensor, value: Tensor, level: Tensor) -> Tensor:
        clean: Tensor = self.net(torch.cat([features, value, self.embedding(level)], dim=-1))
        return clean

    def _step(
        self, features: Tensor, value: Tensor, level: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        clean = self._clean(features, value, level)
        mean = self.signal[level][:, None] * clean + self.keep[level][:, None] * value
        return mean, self.spread[level][:, None] * (temperature or 1.0)


def _cosine(steps: int) -> Tensor:
    """Shares of signal ``[steps]`` after each noise level, from nearly 1 to nearly 0."""
    at = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    curve = torch.cos((at + 0.008) / 1.008 * math.pi / 2).square()
    start = math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    return (curve / start).clamp(min=1e-3).float()
