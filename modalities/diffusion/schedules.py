"""One step of a sampler as a Gaussian: DDIM on a noise schedule, and the flow SDE of Flow-GRPO.

Both give, for any temperature ``tau``, a step whose marginals are those of the deterministic sampler: the temperature
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

__all__ = ["DDIMSchedule", "FlowSchedule", "Grid", "Schedule", "flow_shift"]


@dataclass(frozen=True, eq=False)
class Grid:
    """A sampler's steps: ``times`` ``[N]`` is what the network is told; ``level`` and ``level_next`` ``[N]`` are
    ``alpha_bar`` before and after a step (DDIM), or the noise level ``s`` (flow)."""

    times: Tensor
    level: Tensor
    level_next: Tensor

    def __len__(self) -> int:
        return len(self.times)


class Schedule(ABC):
    """What a family of samplers shares: its grid, its Gaussian step, and how pictures are noised."""

    native: str
    """What the network predicts: ``epsilon``, ``v_prediction``, ``sample`` or ``flow``."""

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

    @abstractmethod
    def clean(self, x: Tensor, predicted: Tensor, level: Tensor) -> Tensor:
        """The picture ``[M, ...]`` that a prediction at ``level`` ``[M]`` means."""

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
        toward = _like((1 - after - std**2).clamp(min=0).sqrt(), x) * noise
        return _like(after.sqrt(), x) * picture + toward, std

    def clean(self, x: Tensor, predicted: Tensor, level: Tensor) -> Tensor:
        """``x0`` from what the network predicts."""
        picture = self._parts(x, predicted, level)[0]
        return picture if self._clip is None else picture.clamp(-self._clip, self._clip)

    def draw_level(self, rng: torch.Generator) -> tuple[float, float]:
        """A timestep drawn uniformly."""
        place = int(torch.randint(len(self.alphas), (), generator=rng))
        return place, float(self.alphas[place])

    def noised(self, clean: Tensor, noise: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """``sqrt(A) x0 + sqrt(1 - A) eps`` and the target of the network's kind."""
        signal, sigma = _like(level.sqrt(), clean), _like((1 - level).sqrt(), clean)
        x = signal * clean + sigma * noise
        if self.native == "epsilon":
            return x, noise
        return x, clean if self.native == "sample" else signal * noise - sigma * clean

    def snr(self, level: Tensor) -> Tensor:
        """``A / (1 - A)``."""
        return level / (1 - level)

    def _parts(self, x: Tensor, predicted: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        signal, sigma = _like(level.sqrt(), x), _like((1 - level).sqrt(), x)
        if self.native == "epsilon":
            return (x - sigma * predicted) / signal, predicted
        if self.native == "sample":
            return predicted, (x - signal * predicted) / sigma
        return signal * x - sigma * predicted, signal * predicted + sigma * x


class FlowSchedule(Schedule):
    """Euler steps of a flow-matching model, or the SDE that has the same marginals.

    With ``s`` the noise level, ``ds < 0`` the step, ``sigma = a sqrt(s / (1 - s))`` and velocity ``v``:
    ``mean = x (1 + sigma^2 / (2 s) ds) + v (1 + sigma^2 (1 - s) / (2 s)) ds``, ``std = sigma sqrt(-ds)``; at ``s = 1``
    sigma is that of the next level.

    *Reference:* Liu et al., Flow-GRPO (2025), arXiv:2505.05470, equation 9. *Differs from paper:* the last step, into
    ``s = 0``, is Euler's: it is deterministic and not trained (their code draws it and leaves it out of training).

    Args:
        config: the pipeline's scheduler configuration.

    Raises:
        UserError: for a scheduler that runs the levels backwards or draws noise of its own.
    """

    native = "flow"

    def __init__(self, config: Any) -> None:
        from diffusers import FlowMatchEulerDiscreteScheduler

        self._scheduler = FlowMatchEulerDiscreteScheduler.from_config(config)
        for name in ("invert_sigmas", "stochastic_sampling"):
            if self._scheduler.config.get(name):
                raise UserError(f"the scheduler's {name} is not known to the flow SDE; set it to false")
        self.even_sigmas = False

    def grid(self, steps: int, tokens: int) -> Grid:
        """The levels of ``FlowMatchEulerDiscreteScheduler.set_timesteps``, shifted by the picture's size if it asks."""
        import numpy as np

        own = self._scheduler.config
        shift = flow_shift(own, tokens) if own.get("use_dynamic_shifting") else None
        sigmas = np.linspace(1.0, 1.0 / steps, steps).tolist() if self.even_sigmas else None
        self._scheduler.set_timesteps(steps, sigmas=sigmas, mu=shift)
        levels = self._scheduler.sigmas.clone()
        return Grid(self._scheduler.timesteps.clone(), levels[:-1], levels[1:])

    def noise_level(self, grid: Grid, options: DiffusionOptions, temperature: float) -> Tensor:
        """``sigma sqrt(-ds)``, 0 for the last step and for ``sampler: ode``."""
        sigma = self._sigma(grid, options, temperature)
        return sigma * (grid.level - grid.level_next).sqrt()

    def step(
        self,
        x: Tensor,
        predicted: Tensor,
        grid: Grid,
        index: Tensor,
        options: DiffusionOptions,
        temperature: float,
    ) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of a step of the SDE; Euler's step bit for bit where there is no noise."""
        sigma = self._sigma(grid, options, temperature).to(x.device)[index]
        s, after = grid.level.to(x.device)[index], grid.level_next.to(x.device)[index]
        ds = after - s
        drift = sigma**2 / (2 * s)
        mean = x * _like(1 + drift * ds, x) + _like(ds, x) * (predicted * _like(1 + drift * (1 - s), x))
        return mean, sigma * (-ds).sqrt()

    def clean(self, x: Tensor, predicted: Tensor, level: Tensor) -> Tensor:
        """``x - s v``."""
        return x - _like(level, x) * predicted

    def draw_level(self, rng: torch.Generator) -> tuple[float, float]:
        """A level drawn uniformly from the shifted training levels."""
        levels = self._scheduler.config.num_train_timesteps
        s = (int(torch.randint(levels, (), generator=rng)) + 1) / levels
        shift = float(self._scheduler.config.get("shift", 1.0))
        s = shift * s / (1 + (shift - 1) * s)
        return s * levels, s

    def noised(self, clean: Tensor, noise: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """``(1 - s) x0 + s eps`` and the velocity ``eps - x0``."""
        s = _like(level, clean)
        return (1 - s) * clean + s * noise, noise - clean

    def snr(self, level: Tensor) -> Tensor:
        """``((1 - s) / s)^2``."""
        return ((1 - level) / level).square()

    def _sigma(self, grid: Grid, options: DiffusionOptions, temperature: float) -> Tensor:
        if options.sampler == "ode":
            return torch.zeros_like(grid.level)
        s = torch.where(grid.level >= 1, grid.level_next, grid.level)
        sigma = temperature * options.sde_a * (s / (1 - s)).sqrt()
        return torch.where(grid.level_next > 0, sigma, torch.zeros_like(sigma))


def flow_shift(config: Any, tokens: int) -> float:
    """The resolution-dependent shift of a flow schedule, linear in the number of patches (as in SD3 and Flux)."""
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    return low + (tokens - few) * (high - low) / (many - few)


def _like(value: Tensor, x: Tensor) -> Tensor:
    return value.reshape(-1, *[1] * (x.dim() - 1))
