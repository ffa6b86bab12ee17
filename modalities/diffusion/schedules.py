"""One step of a sampler as a Gaussian: what samplers share, and DDIM on a noise schedule.

A sampler gives, at any temperature, a step whose marginals are those of the deterministic sampler: the temperature
multiplies ``eta`` (or ``a``), so 1 is the stochastic sampler and 0 the deterministic one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmalign.errors import UserError
from mmalign.modalities.diffusion.options import DiffusionOptions

__all__ = ["DDIMSchedule", "Grid", "Sampler", "Schedule", "like"]


@dataclass(frozen=True, eq=False)
class Grid:
    """A sampler's steps: ``times`` ``[N]`` is what the network is told; ``level`` and ``level_next`` ``[N]`` are
    ``alpha_bar`` before and after a step (DDIM), or the noise level ``s`` (flow)."""

    times: Tensor
    level: Tensor
    level_next: Tensor

    def __len__(self) -> int:
        return len(self.times)


class Sampler(ABC):
    """What samplers share: a grid of steps and the Gaussian of each."""

    @abstractmethod
    def grid(self, steps: int, tokens: int) -> Grid:
        """The steps of a sampler of that length for pictures of ``tokens`` patches."""

    @abstractmethod
    def noise_level(self, grid: Grid, options: DiffusionOptions, temperature: float) -> Tensor:
        """Standard deviation ``[N]`` of every step; 0 where a step is deterministic."""

    @abstractmethod
    def step(
        self,
        x: Tensor,
        predicted: Tensor,
        grid: Grid,
        index: Tensor,
        options: DiffusionOptions,
        temperature: float,
    ) -> tuple[Tensor, Tensor]:
        """Mean ``[M, ...]`` and standard deviation ``[M]`` of steps ``index`` ``[M]`` from ``x``."""

    def start(self, noise: Tensor, grid: Grid) -> Tensor:
        """Where the chain begins, from standard normal ``noise``."""
        del grid
        return noise

    def network_input(self, x: Tensor, level: Tensor) -> Tensor:
        """What the network is shown of ``x`` at ``level`` ``[M]``."""
        del level
        return x

    @abstractmethod
    def clean(self, x: Tensor, predicted: Tensor, level: Tensor) -> Tensor:
        """The picture ``[M, ...]`` that a prediction at ``level`` ``[M]`` means."""

    @abstractmethod
    def diffused(self, clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """Pictures ``[M, ...]`` with as much noise as the chain has at ``level`` ``[M]``."""


class Schedule(Sampler):
    """The sampler of a network's own noise schedule, which also says how pictures are noised to train it."""

    native: str
    """What the network predicts: ``epsilon``, ``v_prediction``, ``sample`` or ``flow``."""

    @abstractmethod
    def draw_level(self, rng: torch.Generator) -> tuple[float, float]:
        """A random training time and its level."""

    @abstractmethod
    def noised(self, clean: Tensor, noise: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """The noisy picture at ``level`` ``[M]`` and the network's target."""

    @abstractmethod
    def snr(self, level: Tensor) -> Tensor:
        """Signal-to-noise ratio ``[M]`` of a level."""


class DDIMSchedule(Schedule):
    """DDIM steps on the noise schedule of a diffusers scheduler.

    ``s = eta sqrt((1 - A') / (1 - A)) sqrt(1 - A / A')``, ``mean = sqrt(A') x0 + sqrt(1 - A' - s^2) eps``.

    *Reference:* Song et al., DDIM (2021), arXiv:2010.02502, equations 12 and 16; as ``diffusers.DDIMScheduler.step``.
    *Differs from diffusers:* ``1 - A' - s^2`` is 0 where rounding or ``eta`` above 1 make it negative.

    Args:
        config: the pipeline's scheduler configuration.

    Raises:
        UserError: for dynamic thresholding, or a prediction type without a DDIM step.
    """

    def __init__(self, config: Any) -> None:
        from diffusers import DDIMScheduler

        given = dict(config)
        given.setdefault("clip_sample", False)
        self._scheduler = DDIMScheduler.from_config(given)
        own = self._scheduler.config
        self.native = own.prediction_type
        if own.thresholding:
            raise UserError(
                "the scheduler's thresholding depends on the picture, so a step has no Gaussian density"
            )
        if self.native not in ("epsilon", "v_prediction", "sample"):
            raise UserError(
                f'prediction_type "{self.native}" has no DDIM step; use epsilon, v_prediction or sample'
            )
        self.alphas: Tensor = self._scheduler.alphas_cumprod
        self._clip = float(own.clip_sample_range) if own.clip_sample else None
        if self.native == "epsilon" and not float(self.alphas[-1]) > 0:
            raise UserError(
                "a schedule that ends in pure noise cannot predict epsilon; use v_prediction or sample"
            )

    def grid(self, steps: int, tokens: int) -> Grid:
        """The timesteps of ``DDIMScheduler.set_timesteps`` with its own spacing."""
        del tokens
        total = int(self._scheduler.config.num_train_timesteps)
        if steps > total:
            raise UserError(f"num_inference_steps: the model knows {total} noise levels, got {steps}")
        self._scheduler.set_timesteps(steps)
        times = self._scheduler.timesteps.clone()
        before = times - total // steps
        final = self._scheduler.final_alpha_cumprod
        level_next = torch.where(before >= 0, self.alphas[before.clamp(min=0)], final)
        return Grid(times, self.alphas[times], level_next)

    def noise_level(self, grid: Grid, options: DiffusionOptions, temperature: float) -> Tensor:
        """``eta`` times the standard deviation of the DDPM posterior."""
        now, after = grid.level, grid.level_next
        return temperature * options.eta * ((1 - after) / (1 - now) * (1 - now / after)).sqrt()

    def step(
        self,
        x: Tensor,
        predicted: Tensor,
        grid: Grid,
        index: Tensor,
        options: DiffusionOptions,
        temperature: float,
    ) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of a DDIM step."""
        std = self.noise_level(grid, options, temperature).to(x.device)[index]
        now, after = grid.level.to(x.device)[index], grid.level_next.to(x.device)[index]
        picture, noise = self._parts(x, predicted, now)
        if self._clip is not None:
            picture = picture.clamp(-self._clip, self._clip)
        toward = like((1 - after - std**2).clamp(min=0).sqrt(), x) * noise
        return like(after.sqrt(), x) * picture + toward, std

    def clean(self, x: Tensor, predicted: Tensor, level: Tensor) -> Tensor:
        """``x0`` from what the network predicts."""
        picture = self._parts(x, predicted, level)[0]
        return picture if self._clip is None else picture.clamp(-self._clip, self._clip)

    def draw_level(self, rng: torch.Generator) -> tuple[float, float]:
        """A timestep drawn uniformly."""
        place = int(torch.randint(len(self.alphas), (), generator=rng))
        return place, float(self.alphas[place])

    def diffused(self, clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """``sqrt(A) x0 + sqrt(1 - A) eps``."""
        return like(level.sqrt(), clean) * clean + like((1 - level).sqrt(), clean) * noise

    def noised(self, clean: Tensor, noise: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """The noisy picture and the target of the network's kind."""
        x = self.diffused(clean, noise, level)
        if self.native == "epsilon":
            return x, noise
        if self.native == "sample":
            return x, clean
        return x, like(level.sqrt(), clean) * noise - like((1 - level).sqrt(), clean) * clean

    def snr(self, level: Tensor) -> Tensor:
        """``A / (1 - A)``."""
        return level / (1 - level)

    def _parts(self, x: Tensor, predicted: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        signal, sigma = like(level.sqrt(), x), like((1 - level).sqrt(), x)
        if self.native == "epsilon":
            return (x - sigma * predicted) / signal, predicted
        if self.native == "sample":
            return predicted, (x - signal * predicted) / sigma
        return signal * x - sigma * predicted, signal * predicted + sigma * x


def like(value: Tensor, x: Tensor) -> Tensor:
    """``value`` ``[M]`` shaped to multiply ``x`` ``[M, ...]``."""
    return value.reshape(-1, *[1] * (x.dim() - 1))
