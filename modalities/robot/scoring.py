"""Densities of recorded decisions, and the surrogate of given ones under a diffusion policy."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mmalign.modalities.robot.diffusion_head import DiffusionHead
from mmalign.modalities.robot.policy import RobotPolicy
from mmalign.types import Batch, LogP

__all__ = ["score_chunks", "score_decisions"]


def score_decisions(
    model: RobotPolicy, batch: Batch, *, entropy: bool, hidden: bool, temperature: float
) -> LogP:
    """Log-density of every step of recorded decisions; padding is never computed."""
    device = next(model.parameters()).device
    decided, mask = batch.inputs["decided"].to(device), batch.mask.to(device)
    observations, drawn = batch.inputs["observations"].to(device), batch.inputs["drawn"].to(device)
    features, seen = model.trunk(observations[:, :-1][decided])
    found = model.head.score(features, drawn[decided], temperature)
    substeps = model.head.substeps

    def laid_out(value: Tensor) -> Tensor:
        """``[N, S, ...]`` of the real decisions to ``[B, D * S, ...]``, 0 elsewhere."""
        full = value.new_zeros(*decided.shape, *value.shape[1:])
        return full.masked_scatter(_like(decided, full), value).flatten(1, 2)

    moments = None
    if found.mean is not None and found.std is not None:
        moments = (laid_out(found.mean), laid_out(found.std))
    return LogP(
        values=laid_out(found.logp),
        mask=mask,
        entropy=laid_out(found.entropy) if entropy else None,
        hidden=_states(model, observations, seen, decided, substeps) if hidden else None,
        dims=model.head.dims,
        moments=moments,
    )


def score_chunks(model: RobotPolicy, batch: Batch, rng: torch.Generator | None) -> LogP:
    """Minus the denoising error ``[B, N]`` of the chunk at every step, at a noise level and with noise from ``rng``.

    Every row draws from a seed of its own, step by step, so that two batches of one size share the numbers of a row
    as far as both go: the sides of a pair, or the policy and its reference.
    """
    head = model.head
    assert isinstance(head, DiffusionHead)
    device = next(model.parameters()).device
    mask, chunks = batch.mask.to(device), batch.inputs["chunks"].to(device)
    observations = batch.inputs["observations"].to(device)
    rng = torch.Generator().manual_seed(0) if rng is None else rng
    seeds = torch.randint(2**62, (len(batch),), generator=rng).tolist()
    lengths = batch.mask.sum(1).tolist()
    drawn = [_drawn(seed, n, head) for seed, n in zip(seeds, lengths, strict=True)]
    level = torch.cat([one[0] for one in drawn]).to(device)
    fresh = torch.cat([one[1] for one in drawn]).to(chunks)
    features, _ = model.trunk(observations[:, :-1][mask])
    error = head.error(features, chunks[mask], level, fresh)
    values = error.new_zeros(mask.shape).masked_scatter(mask, -error)
    return LogP(values=values, mask=mask, surrogate=True, reduction="mean", dims=head.dims)


def _drawn(seed: int, n: int, head: DiffusionHead) -> tuple[Tensor, Tensor]:
    """Noise levels ``[n]`` and noise ``[n, dims]``; more steps leave the first ones as they are."""
    level = np.random.default_rng([seed, 0]).integers(head.substeps, size=n)
    noise = np.random.default_rng([seed, 1]).standard_normal((n, head.dims))
    return torch.from_numpy(level), torch.from_numpy(noise)


def _like(decided: Tensor, full: Tensor) -> Tensor:
    return decided.reshape(*decided.shape, *[1] * (full.dim() - 2)).expand_as(full)


def _states(model: RobotPolicy, observations: Tensor, seen: Tensor, decided: Tensor, substeps: int) -> Tensor:
    """What a critic reads before each step and after the last, ``[B, D * S + 1, H]``; every denoising step of a
    decision has the state before the decision."""
    b, width = decided.shape
    last = decided.sum(1)
    _, final = model.trunk(observations[torch.arange(b, device=last.device), last])
    full = seen.new_zeros(b, width + 1, seen.shape[-1])
    inside = torch.cat([decided, decided.new_zeros(b, 1)], 1)
    full = full.masked_scatter(_like(inside, full), seen)
    after = torch.arange(width + 1, device=last.device)[None] == last[:, None]
    full = full.masked_scatter(_like(after, full), final)
    place = torch.arange(width * substeps + 1, device=last.device) // substeps
    return full[:, place]
