"""Drawing pictures: the sampler's chain, what is recorded of it, and the chain with gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmalign.errors import UserError
from mmalign.modalities.diffusion.backbones import Condition
from mmalign.modalities.diffusion.options import DiffusionOptions
from mmalign.modalities.diffusion.pictures import prompt_of, to_pil, to_unit
from mmalign.modalities.diffusion.policy import DiffusionPolicy, policy_of
from mmalign.modalities.diffusion.schedules import Grid, Sampler
from mmalign.modalities.diffusion.steps import Denoising, gaussian_logp
from mmalign.types import Rollout, Row

__all__ = ["differentiable_pictures", "draw_pictures"]


@torch.no_grad()
def draw_pictures(
    model: nn.Module,
    rows: Sequence[Row],
    n: int,
    rng: torch.Generator | Sequence[torch.Generator],
    options: DiffusionOptions,
    *,
    temperature: float,
    max_steps: int,
) -> Rollout:
    """Draw ``n`` pictures per row and record their random steps with behaviour log-densities.

    All noise of a picture comes from its own row's generator (or, in order, from the one given), so a picture does not
    depend on the batch it is drawn in.  At temperature 0 the chain is the deterministic sampler's, and its steps are
    scored at temperature 1.
    """
    policy = policy_of(model)
    steps = min(options.num_inference_steps, max_steps)
    walk = _Walk.of(policy, options, steps)
    grid = walk.grid
    random = (walk.sampler.noise_level(grid, options, temperature or 1.0) > 0).nonzero().flatten()
    random = random[random < options.train_until * len(grid)]
    streams = _streams(rng, len(rows), n)
    every = [row for row in rows for _ in range(n)]
    answered: list[Row] = []
    logps: list[Tensor] = []
    for first in range(0, len(every), options.sample_batch):
        part = every[first : first + options.sample_batch]
        noise = _Noise.drawn(streams[first : first + len(part)], policy, grid, random, options)
        chain = _chain(walk, part, noise, temperature)
        pictures = to_pil(
            to_unit(policy.backbone.decode(chain.latents[:, -1].to(_decoder_dtype(policy))).float())
        )
        for place, (row, picture) in enumerate(zip(part, pictures, strict=True)):
            kept = noise.kept[place]
            path = chain.latents[place].cpu()
            record = Denoising(path[kept].clone(), path[kept + 1].clone(), kept, steps)
            answered.append(replace(row, completion=picture, steps=record, segments=()))
        logps.append(chain.logp.gather(1, noise.kept.to(chain.logp.device)))
    values = torch.cat(logps)
    size = len(every)
    return Rollout(
        rows=tuple(answered),
        logp=values,
        mask=torch.ones(values.shape, dtype=torch.bool, device=values.device),
        finished=torch.ones(size, dtype=torch.bool, device=values.device),
        group=torch.arange(size, device=values.device) // n,
    )


def differentiable_pictures(
    model: nn.Module, rows: Sequence[Row], rng: torch.Generator, grad_steps: int, options: DiffusionOptions
) -> Tensor:
    """Pictures ``[B, 3, H, W]`` from 0 to 1 with gradient through the last ``grad_steps`` calls of the denoiser.

    The chain before them runs without gradient.  With ``grad_from`` the chain stops at a random step of its last part
    and the picture is predicted from there: one call more, the last of those that carry gradient.  With ``last_draws``
    the whole chain runs without gradient, and its end is noised back to the last step so often: ``[B * last_draws, 3,
    H, W]``, those of a row side by side.

    *Reference:* Clark et al., DRaFT and DRaFT-LV (2024), arXiv:2309.17400; Prabhudesai et al., AlignProp (2023),
    arXiv:2310.03739; Xu et al., ImageReward and ReFL (2023), arXiv:2304.05977.

    Raises:
        UserError: when ``grad_steps`` is below 1; where it is above the number of calls all of them carry gradient.
            With ``last_draws`` when it is not 1, or where the chain stops early.
    """
    policy = policy_of(model)
    walk = _Walk.of(policy, options, options.num_inference_steps)
    stop = _stopping_step(walk.grid, options, rng)
    calls = len(walk.grid) if stop is None else stop + 1
    draws = options.last_draws
    if grad_steps < 1:
        raise UserError(f"grad_steps: expected at least 1, got {grad_steps}")
    if draws > 1 and (grad_steps > 1 or stop is not None):
        raise UserError(
            "last_draws: the last step alone carries gradient then; set grad_steps 1 and no grad_from"
        )
    condition = policy.condition([prompt_of(row) for row in rows], options)

    def noise(n: int) -> Tensor:
        return torch.randn((n, *policy.backbone.shape(options)), generator=rng).to(policy.device)

    x = walk.sampler.start(noise(len(rows)), walk.grid)
    for step in range(calls):
        carries = draws == 1 and step >= calls - grad_steps and torch.is_grad_enabled()
        with torch.set_grad_enabled(carries):
            predicted = walk.predicted(x, step, condition)
            if step == stop:
                x = walk.sampler.clean(x, predicted, walk.level(x, step))
                break
            x = _drawn(walk.moments(x, predicted, step, 1.0), noise(len(x)))
    if draws > 1:
        last, many = len(walk.grid) - 1, x.repeat_interleave(draws, 0)
        x = walk.sampler.diffused(many, noise(len(many)), walk.level(many, last))
        every = policy.condition([prompt_of(row) for row in rows for _ in range(draws)], options)
        x = _drawn(walk.moments(x, walk.predicted(x, last, every), last, 1.0), noise(len(x)))
    return to_unit(policy.backbone.decode(x.to(_decoder_dtype(policy))).float())


@dataclass(frozen=True)
class _Walk:
    """Single steps of a sampler's chain; whoever walks it brings the noise."""

    policy: DiffusionPolicy
    options: DiffusionOptions
    sampler: Sampler
    grid: Grid
    empty: Condition | None

    @classmethod
    def of(cls, policy: DiffusionPolicy, options: DiffusionOptions, steps: int) -> _Walk:
        """The chain of so many steps that the settings ask for."""
        sampler = policy.sampler(options)
        return cls(
            policy,
            options,
            sampler,
            sampler.grid(steps, policy.backbone.tokens(options)),
            policy.empty(options),
        )

    def level(self, x: Tensor, step: int) -> Tensor:
        """The level of a step, ``[B]``."""
        return self.grid.level.to(x.device)[self._place(x, step)]

    def predicted(self, x: Tensor, step: int, condition: Condition) -> Tensor:
        """What the network says of ``x``; where a gradient is kept, by recomputing it if the settings say so."""

        def call(x: Tensor) -> Tensor:
            shown = self.sampler.network_input(x, self.level(x, step))
            times = self.grid.times.to(x.device)[self._place(x, step)]
            return self.policy.predict(shown, times, condition, self.empty, self.options)

        if torch.is_grad_enabled() and self.options.checkpointing:
            made: Tensor = checkpoint(call, x, use_reentrant=False, preserve_rng_state=False)
            return made
        return call(x)

    def moments(self, x: Tensor, predicted: Tensor, step: int, temperature: float) -> tuple[Tensor, Tensor]:
        """Mean ``[B, ...]`` and standard deviation ``[B]`` of the next latents."""
        return self.sampler.step(x, predicted, self.grid, self._place(x, step), self.options, temperature)

    def _place(self, x: Tensor, step: int) -> Tensor:
        return torch.full((len(x),), step, device=x.device)


def _drawn(moments: tuple[Tensor, Tensor], noise: Tensor) -> Tensor:
    mean, std = moments
    return mean + std.reshape(-1, 1, 1, 1) * noise


def _stopping_step(grid: Grid, options: DiffusionOptions, rng: torch.Generator) -> int | None:
    if options.grad_from is None:
        return None
    first = min(int(options.grad_from * len(grid)), len(grid) - 1)
    return first + int(torch.randint(len(grid) - first, (), generator=rng))


@dataclass(frozen=True)
class _Noise:
    """What is random about a batch: ``start`` ``[B, C, H, W]``, ``steps`` ``[B, N, C, H, W]``, ``kept`` ``[B, K]``."""

    start: Tensor
    steps: Tensor
    kept: Tensor

    @classmethod
    def drawn(
        cls,
        streams: Sequence[torch.Generator],
        policy: DiffusionPolicy,
        grid: Grid,
        random: Tensor,
        options: DiffusionOptions,
    ) -> _Noise:
        """Draw picture by picture, each from its own stream: noise first, then which steps are kept."""
        shape = policy.backbone.shape(options)
        count = max(1, round(options.train_fraction * len(random))) if len(random) else 0
        noises, kept = [], []
        for stream in streams:
            noises.append(torch.randn((len(grid) + 1, *shape), generator=stream))
            order = torch.randperm(len(grid), generator=stream)
            kept.append(order[torch.isin(order, random)][:count].sort().values)
        every = torch.stack(noises).to(policy.device)
        return cls(every[:, 0], every[:, 1:], torch.stack(kept))


@dataclass(frozen=True)
class _Chain:
    """Latents ``[B, N + 1, C, H, W]`` of a chain and the log-density ``[B, N]`` of its random steps (else 0)."""

    latents: Tensor
    logp: Tensor


def _chain(walk: _Walk, rows: Sequence[Row], noise: _Noise, temperature: float) -> _Chain:
    condition: Condition = walk.policy.condition([prompt_of(row) for row in rows], walk.options)
    x = walk.sampler.start(noise.start, walk.grid)
    path, logps = [x], []
    for step in range(len(walk.grid)):
        predicted = walk.predicted(x, step, condition)
        mean, std = walk.moments(x, predicted, step, temperature)
        drawn = _drawn((mean, std), noise.steps[:, step]) if float(std[0]) > 0 else mean
        if temperature == 0:
            mean, std = walk.moments(x, predicted, step, 1.0)
        known = float(std[0]) > 0
        logps.append(
            gaussian_logp(drawn, mean, std, walk.options.reduction) if known else torch.zeros_like(std)
        )
        x = drawn
        path.append(x)
    return _Chain(torch.stack(path, 1), torch.stack(logps, 1))


def _streams(rng: torch.Generator | Sequence[torch.Generator], rows: int, n: int) -> list[torch.Generator]:
    if isinstance(rng, torch.Generator):
        return [rng] * (rows * n)
    if len(rng) != rows:
        raise ValueError(f"expected one generator or {rows}, got {len(rng)}")
    return [stream for stream in rng for _ in range(n)]


def _decoder_dtype(policy: DiffusionPolicy) -> torch.dtype:
    vae = policy.backbone.vae
    return torch.float32 if vae is None else vae.dtype
