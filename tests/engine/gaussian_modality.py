"""A modality whose steps are Gaussian: ``D`` numbers per step, a learnt mean per class of row; no tokens anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mmalign.config.fields import Positive, Section
from mmalign.config.options import read_options
from mmalign.types import Batch, LogP, Rollout, Row, StepReward

CLASSES, STEPS, DIMS = 2, 3, 4


class Options(Section):
    """Settings of the modality."""

    std: Positive = 0.5
    """Standard deviation of a step."""
    reduction: str = "mean"
    """``mean`` or ``sum``."""


@dataclass(frozen=True)
class Path3:
    """What the sampler recorded: the steps ``[T, D]``."""

    actions: Tensor


class Means(nn.Module):
    """One mean per class and step."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(CLASSES, STEPS, DIMS))

    def forward(self, classes: Tensor) -> Tensor:
        """Return ``[B, T, D]``."""
        return self.mean[classes]


class GaussianAdapter:
    """Likelihood, Samples, Configurable, Conditioned and Borrows; the prompt (a class) is the evidence."""

    name = "gaussian"

    def __init__(self) -> None:
        self.options = Options()

    def configure(self, options: Mapping[str, Any]) -> None:
        self.options = read_options(Options, options)

    def load(self, source: str, *, device: str = "cpu", dtype: str = "float32") -> nn.Module:
        return Means().to(device)

    def save(self, model: nn.Module, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(model.state_dict(), folder / "model.safetensors")

    def collate(self, rows: Sequence[Row]) -> Batch:
        actions = torch.stack([row.steps.actions for row in rows])
        classes = torch.tensor([int(row.prompt) for row in rows])
        mask = torch.ones(actions.shape[:2], dtype=torch.bool)
        mask[:, -1] = False  # the last step is deterministic
        return Batch(tuple(rows), {"actions": actions, "classes": classes}, mask)

    def logp(
        self, model: nn.Module, batch: Batch, rng: torch.Generator | None = None, *, entropy: bool = False,
        hidden: bool = False, temperature: float = 1.0,
    ) -> LogP:  # fmt: skip
        mean = model(batch.inputs["classes"])
        std = torch.full(batch.mask.shape, self.options.std) * batch.mask
        scale = torch.where(batch.mask, std, torch.ones_like(std))[..., None]
        dense = torch.distributions.Normal(mean, scale).log_prob(batch.inputs["actions"])
        values = dense.mean(-1) if self.options.reduction == "mean" else dense.sum(-1)
        reduction: Any = self.options.reduction
        return LogP(values, batch.mask, -values.detach(), None, reduction, dims=DIMS, moments=(mean, std))

    @torch.no_grad()
    def sample(
        self, model: nn.Module, rows: Sequence[Row], n: int, rng: torch.Generator, *, temperature: float = 1.0,
        max_steps: int = 128,
    ) -> Rollout:  # fmt: skip
        rows = [row for row in rows for _ in range(n)]
        mean = model(torch.tensor([int(row.prompt) for row in rows]))
        actions = mean + self.options.std * temperature * torch.randn(mean.shape, generator=rng)
        made = tuple(
            replace(row, steps=Path3(act), completion=act) for row, act in zip(rows, actions, strict=True)
        )
        batch = self.collate(made)
        logp = self.logp(model, batch).values
        group = torch.arange(len(rows) // n).repeat_interleave(n)
        return Rollout(made, logp, batch.mask, torch.ones(len(rows), dtype=torch.bool), group)

    def blank(self, row: Row) -> Row:
        return replace(row, prompt=0)

    def borrow(self, row: Row, other: Row) -> Row:
        return replace(row, prompt=other.prompt)

    def sample_differentiable(
        self, model: nn.Module, rows: Sequence[Row], rng: torch.Generator, grad_steps: int
    ) -> Tensor:
        mean = model(torch.tensor([int(row.prompt) for row in rows]))
        actions = mean + self.options.std * torch.randn(mean.shape, generator=rng)
        return torch.cat([actions[:, : STEPS - grad_steps].detach(), actions[:, STEPS - grad_steps :]], 1)


TARGET = torch.tensor([1.0, -1.0])


class Nearness:
    """Minus the squared distance of the first step's numbers to +1 (class 0) or -1 (class 1)."""

    def score(self, rows: Sequence[Row], outputs: Tensor) -> Tensor:
        goal = TARGET[torch.tensor([int(row.prompt) for row in rows])]
        return -(outputs[:, 0] - goal[:, None]).square().mean(-1)

    def __call__(self, rollout: Rollout) -> StepReward:
        value = self.score(rollout.rows, torch.stack([row.completion for row in rollout.rows]))
        per_step = torch.zeros(rollout.mask.shape)
        per_step[:, 1] = value
        return StepReward(per_step, {"nearness": per_step})


def gaussian_rows(n: int = 8) -> list[Row]:
    """Prompts of both classes."""
    return [Row(id=f"g{k}", prompt=k % CLASSES) for k in range(n)]
