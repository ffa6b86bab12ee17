"""The flow SDE of Flow-GRPO and its ODE, for flow-matching models and for noise-predicting ones seen as flows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmalign.errors import UserError
from mmalign.modalities.diffusion.options import DiffusionOptions
from mmalign.modalities.diffusion.schedules import DDIMSchedule, Grid, Sampler, Schedule, like

__all__ = ["ConvertedFlow", "FlowSchedule", "flow_shift"]


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
        return _sigma(grid, options, temperature) * (grid.level - grid.level_next).sqrt()

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
        return _sde_step(x, predicted, grid, index, _sigma(grid, options, temperature))

    def clean(self, x: Tensor, predicted: Tensor, level: Tensor) -> Tensor:
        """``x - s v``."""
        return x - like(level, x) * predicted

    def draw_level(self, rng: torch.Generator) -> tuple[float, float]:
        """A level drawn uniformly from the shifted training levels."""
        levels = self._scheduler.config.num_train_timesteps
        s = (int(torch.randint(levels, (), generator=rng)) + 1) / levels
        shift = float(self._scheduler.config.get("shift", 1.0))
        s = shift * s / (1 + (shift - 1) * s)
        return s * levels, s

    def diffused(self, clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """``(1 - s) x0 + s eps``."""
        return _mixed(clean, noise, level)

    def noised(self, clean: Tensor, noise: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """The noisy picture and the velocity ``eps - x0``."""
        return _mixed(clean, noise, level), noise - clean

    def snr(self, level: Tensor) -> Tensor:
        """``((1 - s) / s)^2``."""
        return ((1 - level) / level).square()


class ConvertedFlow(Sampler):
    """The same SDE for a model that was trained to remove noise, seen as a flow.

    A noise schedule ``x_t = sqrt(A) x0 + sqrt(1 - A) eps`` is the flow ``(1 - s) x0 + s eps`` at
    ``s = sqrt(1 - A) / (sqrt(A) + sqrt(1 - A))``, scaled by ``sqrt(A) + sqrt(1 - A)``; the velocity is
    ``(x - x0) / s``.  Steps are those of the model's DDIM grid.  Without noise it draws DDIM's pictures with eta 0.

    *Reference:* Liu et al., Flow-GRPO (2025), arXiv:2505.05470, equation 9; Song et al., DDIM (2021).

    Args:
        schedule: the model's own.
    """

    def __init__(self, schedule: DDIMSchedule) -> None:
        self._schedule = schedule

    def grid(self, steps: int, tokens: int) -> Grid:
        """The DDIM grid in levels of the flow; the last step ends in the picture."""
        own = self._schedule.grid(steps, tokens)
        after = _flow_level(own.level_next)
        after[-1] = 0.0
        return Grid(own.times, _flow_level(own.level), after)

    def start(self, noise: Tensor, grid: Grid) -> Tensor:
        """Noise that the network sees with variance 1, whatever signal the schedule's end leaves."""
        return noise * _size(grid.level[0]).to(noise.device)

    def network_input(self, x: Tensor, level: Tensor) -> Tensor:
        """``x / sqrt((1 - s)^2 + s^2)``."""
        return x / like(_size(level), x)

    def noise_level(self, grid: Grid, options: DiffusionOptions, temperature: float) -> Tensor:
        """``sigma sqrt(-ds)``, 0 for the last step and for ``sampler: ode``."""
        return _sigma(grid, options, temperature) * (grid.level - grid.level_next).sqrt()

    def step(
        self,
        x: Tensor,
        predicted: Tensor,
        grid: Grid,
        index: Tensor,
        options: DiffusionOptions,
        temperature: float,
    ) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of a step of the SDE."""
        level = grid.level.to(x.device)[index]
        velocity = (x - self.clean(x, predicted, level)) / like(level, x)
        return _sde_step(x, velocity, grid, index, _sigma(grid, options, temperature))

    def clean(self, x: Tensor, predicted: Tensor, level: Tensor) -> Tensor:
        """``x0`` from what the network predicts."""
        signal = (1 - level).square() / _size(level).square()
        return self._schedule.clean(self.network_input(x, level), predicted, signal)

    def diffused(self, clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """``(1 - s) x0 + s eps``."""
        return _mixed(clean, noise, level)


def flow_shift(config: Any, tokens: int) -> float:
    """The resolution-dependent shift of a flow schedule, linear in the number of patches (as in SD3 and Flux)."""
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    return low + (tokens - few) * (high - low) / (many - few)


def _sigma(grid: Grid, options: DiffusionOptions, temperature: float) -> Tensor:
    """Noise rate ``[N]`` of every step, 0 for the last and for ``sampler: ode``."""
    if options.sampler == "ode":
        return torch.zeros_like(grid.level)
    s = torch.where(grid.level >= 1, grid.level_next, grid.level)
    sigma = temperature * options.sde_a * (s / (1 - s)).sqrt()
    return torch.where(grid.level_next > 0, sigma, torch.zeros_like(sigma))


def _sde_step(x: Tensor, velocity: Tensor, grid: Grid, index: Tensor, rates: Tensor) -> tuple[Tensor, Tensor]:
    sigma = rates.to(x.device)[index]
    s, after = grid.level.to(x.device)[index], grid.level_next.to(x.device)[index]
    ds = after - s
    drift = sigma**2 / (2 * s)
    mean = x * like(1 + drift * ds, x) + like(ds, x) * (velocity * like(1 + drift * (1 - s), x))
    return mean, sigma * (-ds).sqrt()


def _mixed(clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
    s = like(level, clean)
    return (1 - s) * clean + s * noise


def _flow_level(signal: Tensor) -> Tensor:
    noise = (1 - signal).sqrt()
    return noise / (signal.sqrt() + noise)


def _size(level: Tensor) -> Tensor:
    return ((1 - level).square() + level.square()).sqrt()
