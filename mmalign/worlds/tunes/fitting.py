"""The training loop that every net of this world shares: AdamW, steady rate, then decay; checkpoints, exact resume."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from mmalign.errors import UserError

__all__ = ["fit", "rate_at"]


_STEADY = 0.75
"""Share of the steps at the highest learning rate."""


def rate_at(step: int, total: int, warmup: int = 100, steady: float = _STEADY) -> float:
    """Share of the learning rate: linear warm-up, steady for a share of the steps, then ``1 - sqrt`` down to 0.

    Steps of the steady phase do not depend on ``total``, so a run may be made shorter or longer until its decay begins.

    *Reference:* Haegele et al., Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations (2024),
    arXiv:2405.18392.
    """
    if step < warmup:
        return (step + 1) / warmup
    bend = steady * total
    return 1.0 if step < bend else 1 - math.sqrt((step + 1 - bend) / (total + 1 - bend))


def fit(
    model: nn.Module,
    loss_at: Callable[[int], Tensor],
    *,
    steps: int,
    lr: float,
    weight_decay: float = 0.01,
    steady: float = _STEADY,
    checkpoint: Path | None = None,
    every: int = 250,
    after: Callable[[int, float], None] | None = None,
) -> float:
    """Minimise ``loss_at(step)``, whose batch depends on the step alone; a stopped run goes on from ``checkpoint``.

    Args:
        model: what trains.
        loss_at: the loss (nats) of the batch of a step.
        steps: optimisation steps in all.
        lr: highest learning rate.
        weight_decay: of AdamW, on matrices only.
        steady: share of the steps at the highest rate.
        checkpoint: file of weights, optimiser state and step; written every ``every`` steps, in one move.
        every: steps between checkpoints and calls of ``after``.
        after: called as ``after(steps_done, mean_loss)``.

    Returns:
        CPU seconds spent, those before an interruption included.

    Raises:
        UserError: when the checkpoint belongs to a run of another length that has begun to decay.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), fused=True)
    first, spent, total = *_resumed(checkpoint, model, optimizer, steps, steady), 0.0
    start = time.process_time() - spent
    model.train()
    for step in range(first, steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * rate_at(step, steps, steady=steady)
        loss = loss_at(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        total += float(loss.detach())
        if (step + 1) % every == 0 or step + 1 == steps:
            if checkpoint is not None:
                _keep(checkpoint, model, optimizer, step + 1, steps, time.process_time() - start)
            if after is not None:
                model.eval()
                after(step + 1, total / (step % every + 1))
                model.train()
            total = 0.0
    model.eval()
    return time.process_time() - start


def _resumed(
    checkpoint: Path | None, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, steady: float
) -> tuple[int, float]:
    """Restore what :func:`_keep` wrote; returns the next step and the CPU seconds spent so far."""
    if checkpoint is None or not checkpoint.is_file():
        return 0, 0.0
    kept = torch.load(checkpoint, weights_only=True)
    if kept["steps"] != steps and kept["step"] > steady * min(steps, kept["steps"]):
        raise UserError(
            f"{checkpoint}: belongs to a run of {kept['steps']} steps, not {steps}, and its rate decays already"
        )
    model.load_state_dict(kept["model"])
    optimizer.load_state_dict(kept["optimizer"])
    return kept["step"], kept["cpu"]


def _keep(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, steps: int, cpu: float
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "steps": steps,
        "cpu": cpu,
    }
    staging = path.with_name(f".{path.name}.new")
    torch.save(state, staging)
    os.replace(staging, path)
