"""Scores of drawn steps (a density) and of given pictures (minus a denoising error)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmalign.errors import UserError
from mmalign.modalities.diffusion.options import DiffusionOptions
from mmalign.modalities.diffusion.pictures import prompt_of
from mmalign.modalities.diffusion.policy import DiffusionPolicy, policy_of
from mmalign.modalities.diffusion.schedules import Schedule
from mmalign.modalities.diffusion.steps import gaussian_entropy, gaussian_logp
from mmalign.rng import generator
from mmalign.types import Batch, LogP

__all__ = ["score_pictures", "score_steps"]


def score_steps(
    model: nn.Module, batch: Batch, options: DiffusionOptions, *, entropy: bool, temperature: float
) -> LogP:
    """True log-density ``[B, K]`` of recorded steps, all in one pass of the denoiser.

    Raises:
        UserError: when no step of the batch is random.
    """
    policy = policy_of(model)
    mask = batch.mask.to(policy.device)
    if not mask.any():
        raise UserError(
            "every step of these answers is deterministic (eta 0, sampler: ode), so it has no density; sample with "
            "eta above 0 or sampler: sde, or set model.options.score: denoising"
        )
    rows, _ = mask.nonzero(as_tuple=True)
    before, after, index = (
        batch.inputs[name].to(policy.device)[mask] for name in ("before", "after", "index")
    )
    sampler = policy.sampler(options)
    grid = sampler.grid(int(batch.inputs["num_steps"]), policy.backbone.tokens(options))
    condition = policy.condition([prompt_of(row) for row in batch.rows], options)
    condition = {name: value[rows] for name, value in condition.items()}
    times = grid.times.to(policy.device)[index]
    shown = sampler.network_input(before, grid.level.to(policy.device)[index])
    predicted = policy.predict(shown, times, condition, policy.empty(options), options)
    mean, std = sampler.step(before, predicted, grid, index, options, temperature or 1.0)
    values = gaussian_logp(after, mean, std, options.reduction)
    dims = before[0].numel()

    def spread_out(flat: Tensor, fill: float = 0.0) -> Tensor:
        full = flat.new_full((*mask.shape, *flat.shape[1:]), fill)
        full[mask] = flat
        return full

    return LogP(
        values=spread_out(values),
        mask=mask,
        entropy=spread_out(gaussian_entropy(std, dims, options.reduction)) if entropy else None,
        reduction=options.reduction,
        dims=dims,
        moments=(spread_out(mean.flatten(1)), spread_out(std, 1.0)),
    )


def score_pictures(
    model: nn.Module, batch: Batch, options: DiffusionOptions, rng: torch.Generator | None
) -> LogP:
    """The surrogate ``-w |error|^2 / (2 D)`` ``[B, 1]`` of pictures, at noise and noise level drawn from ``rng``.

    Draws come row by row, so rows at one place of two batches share them from one state of ``rng``: the two pictures
    of a pair, and policy and reference.  With ``draws`` above 1 errors are averaged.  Nothing is guided.

    *Reference:* Wallace et al., Diffusion-DPO (2024), arXiv:2311.12908, equation 14.  *Differs from paper:* the factor
    1/2 of their ``beta / 2`` stands here, so that ``beta`` of a pair loss is theirs; latents are the posterior's mode.
    """
    policy = policy_of(model)
    latents = policy.latents(batch.inputs["pixels"], batch.inputs["keys"], options)
    drawn = _draw(
        len(batch), tuple(latents.shape[1:]), policy.schedule, options, rng or generator(0, "denoising")
    )
    prompts = [prompt_of(row) for row in batch.rows for _ in range(options.draws)]
    prompts = ["" if empty else prompt for prompt, empty in zip(prompts, drawn.empty, strict=True)]
    clean = latents.repeat_interleave(options.draws, 0)
    level = drawn.level.to(policy.device)
    noisy, target = policy.schedule.noised(clean, drawn.noise.to(policy.device), level)
    condition = policy.condition(prompts, options)
    times = drawn.times.to(policy.device)
    predicted = policy.predict(noisy, times, condition, None, options)
    error = (predicted - target).square().flatten(1).mean(-1) * _weight(policy, level, options)
    values = -0.5 * error.reshape(len(batch), options.draws).mean(-1, keepdim=True)
    mask = torch.ones_like(values, dtype=torch.bool)
    return LogP(values=values, mask=mask, reduction="mean", dims=latents[0].numel(), surrogate=True)


@dataclass(frozen=True)
class _Drawn:
    """Noise levels, noise and dropped prompts of ``B * draws`` denoising errors."""

    times: Tensor
    level: Tensor
    noise: Tensor
    empty: list[bool]


def _draw(
    rows: int, shape: tuple[int, ...], schedule: Schedule, options: DiffusionOptions, rng: torch.Generator
) -> _Drawn:
    times, levels, noises, empty = [], [], [], []
    for _ in range(rows * options.draws):
        time, level = schedule.draw_level(rng)
        times.append(time)
        levels.append(level)
        noises.append(torch.randn(shape, generator=rng))
        dropped = float(torch.rand((), generator=rng)) < options.prompt_dropout
        empty.append(dropped)
    whole = all(isinstance(time, int) for time in times)
    return _Drawn(
        torch.tensor(times, dtype=torch.long if whole else torch.float32),
        torch.tensor(levels, dtype=torch.float32),
        torch.stack(noises),
        empty,
    )


def _weight(policy: DiffusionPolicy, level: Tensor, options: DiffusionOptions) -> Tensor:
    """Turns a squared error of the network's own target into one of the asked target's units, ``[M]``.

    Squared errors of the targets differ by the signal-to-noise ratio alone: with ``e`` the error of the clean picture,
    epsilon's is ``snr e``, that of v is ``(snr + 1) e`` and a velocity's ``e / s^2``.
    """
    if options.weighting == "native":
        return torch.ones_like(level)
    snr = policy.schedule.snr(level)
    units = {
        "sample": torch.ones_like(snr),
        "epsilon": snr,
        "v_prediction": snr + 1,
        "min_snr": snr.clamp(max=options.snr_gamma),
        "flow": (1 + snr.sqrt()).square(),
    }
    return units[options.weighting] / units[policy.schedule.native]
