"""Scoring a rollout under the policy that drew it, its reference and its critics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mmalign.engine.experience import Scored
from mmalign.errors import UserError
from mmalign.objectives.kl import gaussian_kl
from mmalign.types import Batch, LogP, Rollout, StepReward

if TYPE_CHECKING:
    from mmalign.config.policy import PPOConfig
    from mmalign.engine.critic import Critic
    from mmalign.engine.reference import Reference
    from mmalign.protocols import Likelihood

__all__ = ["score_rollout", "step_kl"]


@torch.no_grad()
def score_rollout(
    adapter: Likelihood,
    model: nn.Module,
    reference: Reference,
    critics: Mapping[str, Critic | None],
    rollout: Rollout,
    cfg: PPOConfig,
    reward: StepReward,
    cost: StepReward | None = None,
) -> Scored:
    """Log-probabilities, reference, entropy, values and (where asked for) exact KL of every step of a rollout.

    Args:
        adapter: the modality.
        model: the policy that drew the rollout.
        reference: what the KL is measured from.
        critics: ``values`` and ``cost_values``; ``None`` gives zeros.
        rollout: the answers.
        cfg: the section of the stage.
        reward: their reward.
        cost: their cost, where it is bounded.

    Raises:
        UserError: for ``kl_estimator: exact`` on steps that are not Gaussian.
    """
    size, width = cfg.per_device_train_batch_size, rollout.mask.shape[1]
    names = ("logp", "ref", "entropy", *critics)
    columns: dict[str, list[Tensor]] = {name: [] for name in names}
    kl: list[Tensor] = []
    means: list[Tensor] = []
    nats = 1
    for start in range(0, len(rollout), size):
        batch = adapter.collate(rollout.rows[start : start + size])
        now = _now(adapter, model, rollout, batch, start, cfg, critic=critics["values"] is not None)
        ref = reference.score(batch, temperature=cfg.temperature)
        nats = ref.nats
        columns["logp"].append(_pad(now.values, width))
        columns["ref"].append(_pad(ref.values, width))
        columns["entropy"].append(_pad(now.entropy, width))
        if cfg.kl_estimator == "exact":
            kl.append(_pad(step_kl(adapter, now, ref), width))
            assert ref.moments is not None
            means.append(nn.functional.pad(ref.moments[0], (0, 0, 0, width - batch.mask.shape[1])))
        for name, critic in critics.items():
            if critic is None:
                values = torch.zeros_like(now.values)
            else:
                assert now.hidden is not None  # the stage that made the critic has seen them
                values = critic(now.hidden)
            columns[name].append(_pad(values, width))
    joined = {name: torch.cat(parts) * rollout.mask for name, parts in columns.items()}
    return _scored(rollout, joined, reward, cost, nats, kl, means)


def _scored(
    rollout: Rollout,
    joined: Mapping[str, Tensor],
    reward: StepReward,
    cost: StepReward | None,
    nats: int,
    kl: list[Tensor],
    means: list[Tensor],
) -> Scored:
    return Scored(
        rows=rollout.rows,
        mask=rollout.mask,
        finished=rollout.finished,
        group=rollout.group,
        logp_old=joined["logp"],
        logp_ref=joined["ref"],
        values=joined["values"],
        entropy=joined["entropy"],
        reward=reward,
        cost=cost,
        cost_values=None if cost is None else joined["cost_values"],
        nats=nats,
        exact_kl=torch.cat(kl) * rollout.mask if kl else None,
        mean_ref=torch.cat(means) if means else None,
    )


def step_kl(adapter: Likelihood, now: LogP, ref: LogP) -> Tensor:
    """The exact KL ``[B, T]`` in nats of the steps' distributions.

    Raises:
        UserError: where the modality's steps are not Gaussian.
    """
    if now.moments is None or ref.moments is None:
        raise UserError(
            f"kl_estimator: exact needs Gaussian steps, which those of modality {adapter.name!r} are not; "
            "use k1, k2 or k3"
        )
    return gaussian_kl(now.moments[0], ref.moments[0], now.moments[1], now.mask)


def _now(
    adapter: Likelihood,
    model: nn.Module,
    rollout: Rollout,
    batch: Batch,
    start: int,
    cfg: PPOConfig,
    *,
    critic: bool,
) -> LogP:
    """The policy's own score of its answers; from the sampler where that is configured and enough.

    Then the entropy is its one-sample estimate, minus the log-probability of the step taken.
    """
    whole = next(model.parameters()).dtype in (torch.float32, torch.float64)
    if cfg.reuse_sampling_logp and not critic and whole and cfg.kl_estimator != "exact":
        values = rollout.logp[start : start + len(batch), : batch.mask.shape[1]].to(batch.mask.device)
        return LogP(values, batch.mask, entropy=-values)
    scored = adapter.logp(model, batch, temperature=cfg.temperature, entropy=True, hidden=critic)
    if scored.surrogate:
        raise UserError(
            f"modality {adapter.name!r} scores its own samples with a surrogate, so no ratio exists on them"
        )
    return scored


def _pad(value: Tensor | None, width: int) -> Tensor:
    assert value is not None
    return nn.functional.pad(value, (0, width - value.shape[1]))
