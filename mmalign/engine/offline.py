"""The offline loop: rows in, a loss, an update.  SFT, reward models and pair objectives are losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import torch

from mmalign.engine.loop import LoopState
from mmalign.engine.optim import learning_rate_factor, set_learning_rates
from mmalign.engine.order import rows_for_step
from mmalign.engine.parallel import my_share
from mmalign.engine.step import Loss, optimisation_step
from mmalign.objectives.sft import nll_loss
from mmalign.rng import generator

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

    from mmalign.protocols import Likelihood
    from mmalign.types import Row

__all__ = ["OfflineTrainer", "sft_objective"]

Item = TypeVar("Item")


@dataclass(frozen=True)
class OfflineTrainer(Generic[Item]):
    """One step of offline training; give ``trainer.step`` to :func:`mmalign.engine.loop.run_loop`.

    Args:
        loss_fn: ``(rows, rng) -> Loss`` on one micro-batch.
        items: the training rows (or pairs).
        state: modules and optimiser.
        batch_size: the **global** batch size.
        micro_batch_size: rows per forward on one process.
    """

    loss_fn: Callable[[Sequence[Item], torch.Generator], Loss]
    items: Sequence[Item]
    state: LoopState
    name: str
    seed: int
    max_steps: int
    batch_size: int
    micro_batch_size: int
    warmup_ratio: float = 0.0
    max_grad_norm: float = 1.0
    accelerator: Accelerator | None = None

    def step(self, step: int) -> Mapping[str, float]:
        """Do step ``step`` and return its metrics."""
        factor = learning_rate_factor(step, self.max_steps, self.warmup_ratio)
        set_learning_rates(self.state.optimizer, factor)
        rows = rows_for_step(self.items, self.batch_size, step, seed=self.seed, stage=self.name)
        mine = my_share(list(enumerate(rows)), self.accelerator)
        chunks = [mine[k : k + self.micro_batch_size] for k in range(0, len(mine), self.micro_batch_size)]

        def thunk(chunk: list[tuple[int, Item]]) -> Callable[[], Loss]:
            rng = generator(self.seed, self.name, "loss", step, chunk[0][0])
            return lambda: self.loss_fn([item for _, item in chunk], rng)

        metrics = optimisation_step(
            [thunk(chunk) for chunk in chunks],
            self.state.optimizer,
            max_grad_norm=self.max_grad_norm,
            where=f"stage {self.name}, step {step}",
            accelerator=self.accelerator,
        )
        metrics["learning_rate"] = float(self.state.optimizer.param_groups[0]["lr"])
        return metrics


def sft_objective(adapter: Likelihood, model: nn.Module) -> Callable[[Sequence[Row], torch.Generator], Loss]:
    """Supervised fine-tuning as a loss over rows: mean negative log-likelihood per real step."""

    def loss_fn(rows: Sequence[Row], rng: torch.Generator) -> Loss:
        batch = adapter.collate(rows)
        scored = adapter.logp(model, batch, rng)
        value = nll_loss(scored.values, scored.mask)
        weight = float(scored.mask.sum())
        return Loss(value, weight, {"nll": value.detach()})

    return loss_fn
