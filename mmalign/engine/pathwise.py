"""The pathwise loop's step: sample with gradient, score, follow the reward's gradient into the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmalign.engine.loop import LoopState
from mmalign.engine.optim import learning_rate_factor, set_learning_rates
from mmalign.engine.order import rows_for_step
from mmalign.engine.parallel import my_share
from mmalign.engine.reference import Reference
from mmalign.engine.scoring import step_kl
from mmalign.engine.step import Loss, optimisation_step
from mmalign.objectives.pathwise import pathwise_loss
from mmalign.objectives.sft import nll_loss
from mmalign.protocols import DifferentiableReward, Likelihood, Pathwise, Samples
from mmalign.rng import generator, numpy_generator
from mmalign.types import Row

if TYPE_CHECKING:
    from accelerate import Accelerator

    from mmalign.config.pathwise import PathwiseConfig

__all__ = ["PathwiseTrainer"]


@dataclass
class PathwiseTrainer:
    """One step of pathwise training; give ``trainer.step`` to :func:`mmalign.engine.loop.run_loop`.

    Args:
        adapter: a modality with ``Pathwise`` (and ``Samples`` where a KL is asked for).
        model: the policy, in eval mode.
        reference: what the KL is measured from; ``None`` where ``kl_coef`` is 0.
        reward: differentiable in the answers.
        rows: the prompts (with answers where ``sft_coef`` is above 0).
        cfg: the section.
        state: modules and optimiser that a checkpoint holds.
    """

    adapter: Likelihood
    model: nn.Module
    reference: Reference | None
    reward: DifferentiableReward
    rows: Sequence[Row]
    cfg: PathwiseConfig
    state: LoopState
    name: str
    seed: int
    accelerator: Accelerator | None = None

    def step(self, step: int) -> Mapping[str, float]:
        """Do step ``step`` and return its metrics."""
        cfg = self.cfg
        factor = learning_rate_factor(step, cfg.max_steps, cfg.warmup_ratio, cfg.lr_scheduler_type)
        set_learning_rates(self.state.optimizer, factor)
        self.model.eval()
        prompts = rows_for_step(self.rows, cfg.rollout_batch_size, step, seed=self.seed, stage=self.name)
        mine = my_share(list(enumerate(prompts)), self.accelerator)
        size, depth = cfg.per_device_train_batch_size, self._depth(step)

        def thunk(part: list[tuple[int, Row]]) -> Callable[[], Loss]:
            return lambda: self._loss([row for _, row in part], step, part[0][0], depth)

        metrics = optimisation_step(
            [thunk(mine[k : k + size]) for k in range(0, len(mine), size)],
            self.state.optimizer,
            max_grad_norm=cfg.max_grad_norm,
            where=f"stage {self.name}, step {step}",
            accelerator=self.accelerator,
        )
        return metrics | {"grad_steps": float(depth)}

    def _depth(self, step: int) -> int:
        """How many last steps carry gradient: the same for every process."""
        spread = self.cfg.grad_steps_spread
        drawn = numpy_generator(self.seed, self.name, "depth", step).normal(0.0, spread) if spread else 0.0
        return max(1, round(self.cfg.grad_steps + float(drawn)))

    def _loss(self, rows: Sequence[Row], step: int, first: int, depth: int) -> Loss:
        cfg = self.cfg
        assert isinstance(self.adapter, Pathwise)
        rng = generator(self.seed, self.name, "sample", step, first)
        outputs = self.adapter.sample_differentiable(self.model, rows, rng, depth)
        each = len(outputs) // len(rows)
        reward = self.reward.score([row for row in rows for _ in range(each)], outputs)
        total = pathwise_loss(reward, cfg.reward_cap)
        metrics: dict[str, float | Tensor] = {
            "rewards/mean": reward.detach().mean(),
            "rewards/std": reward.detach().std(unbiased=False),
        }
        if self.reference is not None:
            kl = self._kl(self.reference, rows, step, first)
            total, metrics["kl"] = total + cfg.kl_coef * kl, kl.detach()
        if cfg.sft_coef:
            scored = self.adapter.logp(
                self.model, self.adapter.collate(rows), generator(self.seed, self.name, "anchor", step, first)
            )
            anchor = nll_loss(scored.values, scored.mask)
            total, metrics["sft_loss"] = total + cfg.sft_coef * anchor, anchor.detach()
        return Loss(total, float(len(rows)), metrics)

    def _kl(self, reference: Reference, rows: Sequence[Row], step: int, first: int) -> Tensor:
        """Mean over answers of the exact KL in nats, on answers the policy draws now; gradient in the means only."""
        assert isinstance(self.adapter, Samples)
        rng = generator(self.seed, self.name, "kl", step, first)
        with torch.no_grad():
            drawn = self.adapter.sample(self.model, rows, 1, rng)
        batch = self.adapter.collate(drawn.rows)
        per_step = step_kl(self.adapter, self.adapter.logp(self.model, batch), reference.score(batch))
        return per_step.sum(-1).mean()
