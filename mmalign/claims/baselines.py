"""No-training baselines and checks that an arm runs as its ``job``: they need the policy, not a stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmalign.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from mmalign.claims.definition import Job
    from mmalign.pipeline.context import RunContext
    from mmalign.types import Rollout, Row, StepReward

__all__ = ["BestOfN", "answered", "best_of_n"]


class BestOfN:
    """An adapter that answers with the best of ``n`` draws under a reward.

    Of every prompt ``n`` answers are drawn and the one with the largest total reward is kept (the
    first of equals).  The behaviour log-probabilities are those of single draws: good for
    evaluation, not for training.

    *Reference:* Stiennon et al. (2020), arXiv:2009.01325, best-of-n as a baseline. *Differs from paper:*
    ranked by the same dense reward, summed, that trains the policy.

    Args:
        adapter: a modality with ``Samples``.
        reward: ``Rollout -> StepReward``.
        n: draws per prompt.
    """

    def __init__(self, adapter: Any, reward: Callable[[Rollout], StepReward], n: int) -> None:
        if n < 1:
            raise UserError(f"best of n: expected n of at least 1, got {n}")
        self.name = f"{adapter.name}, best of {n}"
        self.row_streams = getattr(adapter, "row_streams", False)
        self._adapter, self._reward, self._n = adapter, reward, n

    def sample(
        self,
        model: nn.Module,
        rows: Sequence[Row],
        n: int,
        rng: torch.Generator,
        *,
        temperature: float = 1.0,
        max_steps: int = 128,
    ) -> Rollout:
        """Draw ``n * N`` answers per row and keep the ``n`` best, one of each ``N``."""
        import torch

        drawn = self._adapter.sample(
            model, rows, n * self._n, rng, temperature=temperature, max_steps=max_steps
        )
        totals = (self._reward(drawn).per_step * drawn.mask).sum(-1).view(-1, self._n)
        first = torch.arange(totals.shape[0], device=totals.device) * self._n
        kept = (first + totals.argmax(-1)).cpu()
        return replace(
            drawn,
            rows=tuple(drawn.rows[k] for k in kept.tolist()),
            logp=drawn.logp[kept],
            mask=drawn.mask[kept],
            finished=drawn.finished[kept],
            group=drawn.group[kept],
        )

    def show(self, row: Row) -> Any:
        """Picture a row as the wrapped adapter does (nothing where it cannot)."""
        show = getattr(self._adapter, "show", None)
        return show(row) if show is not None else {}


def best_of_n(n: int, temperature: float = 1.0) -> Job:
    """A job that evaluates the start policy with best-of-``n`` sampling under the run's reward.

    Fills ``evals/best_of_<n>/<task>@T<temperature>``; finished samples are kept.
    """

    def job(ctx: RunContext) -> None:
        from mmalign.pipeline.rewarding import build_reward
        from mmalign.pipeline.stages.evaluate import temperature_name

        model = ctx.load_model(ctx.start_policy())
        with ctx.decoding() as adapter:
            chooser = BestOfN(adapter, build_reward(ctx, ctx.cfg.reward), n)
            for name in ctx.cfg.evaluate.tasks:
                folder = ctx.run_dir / "evals" / f"best_of_{n}" / f"{name}@{temperature_name(temperature)}"
                info = {"id": f"start, best of {n}", "arm": f"best_of_{n}"}
                answered(ctx, chooser, model, name, folder, temperature=temperature, model_info=info)

    return job


def answered(
    ctx: RunContext,
    adapter: Any,
    model: Any,
    task: str,
    folder: Path,
    *,
    temperature: float,
    model_info: Mapping[str, Any],
    times: int = 1,
) -> dict[str, Any]:
    """Let a job's policy answer a task as the run's section ``evaluate`` says; finished samples are kept.

    Args:
        ctx: the run.
        adapter: what answers, within ``ctx.decoding()``.
        model: its policy.
        task: name of the task.
        folder: where answers and results go.
        temperature: of the sampling.
        model_info: what identifies the policy.
        times: how many times the rows of ``evaluate.n``.

    Returns:
        The results.
    """
    from mmalign.evals.run import evaluate
    from mmalign.evals.task import load_task

    cfg = ctx.cfg.evaluate
    return evaluate(
        adapter,
        model,
        load_task(task, {"split": cfg.split, "n": times * cfg.n, "seed": ctx.cfg.data.seed}),
        folder,
        seed=ctx.cfg.seed,
        temperature=temperature,
        batch_size=cfg.batch_size,
        max_steps=cfg.max_new_tokens,
        model_info=model_info,
        options={**ctx.cfg.model.options, **cfg.options},
        progress=False,
    )
