"""DDPO as a plain loop over a diffusers pipeline: its scheduler, its modules, one denoising step at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmalign.benchmarks.bench.gradients import flat_gradient
from mmalign.rng import generator

__all__ = ["PlainDDPO", "brightness"]


def brightness(pictures: Sequence[Any]) -> Tensor:
    """Mean of all pixels of each picture, 0 to 1."""
    return torch.tensor([float(np.asarray(picture, dtype=np.float64).mean()) / 255 for picture in pictures])


class PlainDDPO:
    """Sampling with log-densities, per-prompt advantages and the clipped loss, written step by step.

    Args:
        pipeline: a ``StableDiffusionPipeline`` with DDIM.
        prompts: one group each.
        n: pictures per prompt.
        steps: denoising steps.
        guidance: classifier-free guidance.
        stored: keep the sampler's log-densities and embeddings for the update instead of computing them again.
    """

    def __init__(
        self, pipeline: Any, prompts: Sequence[str], n: int, steps: int, guidance: float, *, stored: bool
    ) -> None:
        self._pipeline, self._n, self._steps, self._guidance, self._stored = (
            pipeline,
            n,
            steps,
            guidance,
            stored,
        )
        self._prompts = [prompt for prompt in prompts for _ in range(n)]
        pipeline.vae.requires_grad_(False)
        pipeline.text_encoder.requires_grad_(False)
        pipeline.scheduler.set_timesteps(steps)
        size = pipeline.unet.config.sample_size
        rng = generator(7)
        drawn = []
        for _ in self._prompts:
            drawn.append(torch.randn((steps + 1, 4, size, size), generator=rng))
            torch.randperm(steps, generator=rng)
        self._noise = torch.stack(drawn)
        self._last: dict[str, Tensor] = {}
        self._images: list[Any] = []

    def draw_with_pipeline(self) -> None:
        """The pipeline's own call, from the same starting noise (its own noise afterwards)."""
        self._images = self._pipeline(
            self._prompts, num_inference_steps=self._steps, guidance_scale=self._guidance, eta=0.0,
            latents=self._noise[:, 0], output_type="pil",
        ).images  # fmt: skip

    def pictures(self) -> Mapping[str, Tensor]:
        """The brightness of every picture."""
        return {"brightness": brightness(self._images)}

    def step(self) -> None:
        """Sample, reward, one policy gradient accumulated over all denoising steps."""
        chain, logps, embeddings = self._sample()
        reward = brightness(self._images)
        groups = reward.reshape(-1, self._n)
        spread = groups.std(1, unbiased=True, keepdim=True)
        advantages = ((groups - groups.mean(1, keepdim=True)) / (spread + 1e-4)).flatten()
        if not self._stored:
            logps = self._recomputed(chain)
        self._pipeline.unet.zero_grad(set_to_none=True)
        for place, time in enumerate(self._pipeline.scheduler.timesteps):
            given = embeddings if self._stored else self._embeddings()
            mean, std = self._moments(chain[place], time, given)
            ratio = (self._logp(chain[place + 1], mean, std) - logps[place]).exp()
            clipped = ratio.clamp(1 - 1e-4, 1 + 1e-4)
            loss = -torch.minimum(ratio * advantages, clipped * advantages).mean()
            (loss / self._steps).backward()
        self._last = {"logp": torch.stack(logps, 1), "reward": reward}

    def outcome(self) -> Mapping[str, Tensor]:
        """Log-densities, rewards and the gradient."""
        named = self._pipeline.unet
        return {**self._last, "gradient": flat_gradient(named)}

    @torch.no_grad()
    def _sample(self) -> tuple[list[Tensor], list[Tensor], Tensor]:
        embeddings = self._embeddings()
        x = self._noise[:, 0]
        chain, logps = [x], []
        for place, time in enumerate(self._pipeline.scheduler.timesteps):
            mean, std = self._moments(x, time, embeddings)
            x = mean + std * self._noise[:, place + 1]
            logps.append(self._logp(x, mean, std))
            chain.append(x)
        vae = self._pipeline.vae
        decoded = vae.decode(x / vae.config.scaling_factor, return_dict=False)[0]
        self._images = self._pipeline.image_processor.postprocess(decoded, output_type="pil")
        return chain, logps, embeddings

    @torch.no_grad()
    def _recomputed(self, chain: Sequence[Tensor]) -> list[Tensor]:
        found = []
        for place, time in enumerate(self._pipeline.scheduler.timesteps):
            mean, std = self._moments(chain[place], time, self._embeddings())
            found.append(self._logp(chain[place + 1], mean, std))
        return found

    @torch.no_grad()
    def _embeddings(self) -> Tensor:
        made = self._pipeline.encode_prompt(self._prompts, "cpu", 1, True)
        return torch.cat([made[1], made[0]])

    def _moments(self, x: Tensor, time: Tensor, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        out = self._pipeline.unet(torch.cat([x] * 2), time, encoder_hidden_states=embeddings).sample
        without, prompted = out.chunk(2)
        guided = without + self._guidance * (prompted - without)
        scheduler = self._pipeline.scheduler
        before = int(time) - scheduler.config.num_train_timesteps // self._steps
        std = scheduler._get_variance(int(time), before).sqrt()
        zero = torch.zeros_like(x)
        mean = scheduler.step(guided, int(time), x, eta=1.0, variance_noise=zero, return_dict=False)[0]
        return mean, std

    def _logp(self, value: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        dense = -((value - mean) ** 2) / (2 * std**2) - std.log() - 0.5 * math.log(2 * math.pi)
        return dense.mean(dim=(1, 2, 3))
