"""Identities that a dense segment reward must satisfy, measured on answers of a real policy.

Written to ``identities.json`` of the run, so that a claim can require them of every cell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from mmalign.pipeline.context import RunContext
    from mmalign.types import Rollout, StepReward

__all__ = ["Identities", "check_rewards", "reward_identities"]

FILE = "identities.json"


@dataclass(frozen=True, slots=True)
class Identities:
    """Largest violation of each identity over the answers; all are 0 for a right implementation.

    Attributes:
        n_answers: how many answers were looked at.
        n_not_applicable: pairs of segment and type without a fact of that type.
        parts: ``|sum of parts - reward|``.
        padding: ``|reward|`` off the mask.
        between: ``|typed reward|`` on steps that end no segment.
        not_applicable: ``|typed reward|`` of a segment that states no fact of the type.
        segments: ``|sum over steps - sum over segment ends|`` of the typed rewards.
        sequence: ``|dense total - sequence total|`` per answer and part.
        sequence_place: ``|sequence reward|`` before the last real step.
    """

    n_answers: int
    n_not_applicable: int
    parts: float
    padding: float
    between: float
    not_applicable: float
    segments: float
    sequence: float
    sequence_place: float


def check_rewards(
    rollout: Rollout,
    dense: StepReward,
    sequence: StepReward,
    extract: Callable[[str], list[list[Any]]],
    types: tuple[str, ...],
) -> Identities:
    """Measure every identity.

    Args:
        rollout: answers with their segments.
        dense: the reward at the segment ends.
        sequence: the same reward paid at the last real step.
        extract: text -> facts per sentence, each fact with ``type``.
        types: the parts that are paid per segment and type, by their last word (``fgaif/object``).
    """
    import torch

    mask = rollout.mask
    named = {
        name.rpartition("/")[2]: part
        for name, part in dense.parts.items()
        if name.rpartition("/")[2] in types
    }
    total = torch.stack(list(dense.parts.values())).sum(0)
    ends = torch.zeros_like(mask)
    absent: list[float] = []
    for b, row in enumerate(rollout.rows):
        for segment in row.segments:
            ends[b, segment.end - 1] = True
            stated = {fact.type for facts in extract(segment.text) for fact in facts}
            absent += [float(part[b, segment.end - 1].abs()) for t, part in named.items() if t not in stated]
    typed = torch.stack(list(named.values())).sum(0)
    last = torch.zeros_like(mask)
    last[torch.arange(len(rollout)), mask.sum(1) - 1] = True
    gaps = [_gap(dense.parts[name].sum(1), sequence.parts[name].sum(1)) for name in dense.parts]
    return Identities(
        n_answers=len(rollout),
        n_not_applicable=len(absent),
        parts=_gap(total, dense.per_step),
        padding=_largest(dense.per_step[~mask]),
        between=_largest(typed[~ends]),
        not_applicable=max(absent, default=0.0),
        segments=_gap(typed.sum(1), (typed * ends).sum(1)),
        sequence=max(gaps, default=0.0),
        sequence_place=_largest(sequence.per_step[~last]),
    )


def reward_identities(types: tuple[str, ...], n_prompts: int = 32) -> Callable[[RunContext], None]:
    """A job that checks the run's reward on fresh answers of its trained policy.

    Also records the sign of the KL term: with a reward of 0 the mean penalised reward of a policy that
    has left its reference must be negative (a released implementation has it the other way round).
    """

    def job(ctx: RunContext) -> None:
        from dataclasses import asdict

        from mmalign.data.jsonl import write_json
        from mmalign.pipeline.judging import build_judge
        from mmalign.pipeline.rewarding import build_reward
        from mmalign.rng import generator

        model = ctx.load_model(str(ctx.stage_dir("ppo") / "final"))
        rows = ctx.rows("validation", n_prompts)
        rng = generator(ctx.cfg.seed, "claims", "identities")
        rollout = ctx.adapter.sample(  # type: ignore[attr-defined]
            model, rows, 1, rng, temperature=1.0, max_steps=ctx.cfg.ppo.max_completion_length
        )
        placed = {
            name: ctx.cfg.reward.model_copy(update={"placement": name}) for name in ("dense", "sequence")
        }
        dense, sequence = (build_reward(ctx, placed[name])(rollout) for name in ("dense", "sequence"))
        _, extractor = build_judge(ctx)
        found = check_rewards(rollout, dense, sequence, extractor.extract, types)
        penalty = _kl_reward(ctx, model, rollout)
        write_json(ctx.run_dir / FILE, {**asdict(found), **penalty})

    return job


def _kl_reward(ctx: RunContext, model: Any, rollout: Rollout) -> Mapping[str, float]:
    """Mean over answers of the KL term of the reward, and of the log-ratio itself (nats)."""
    import torch

    from mmalign.objectives.kl import kl_penalty

    start = ctx.load_model(ctx.start_policy())
    batch = ctx.adapter.collate(rollout.rows)
    with torch.no_grad():
        now, before = (ctx.adapter.logp(each, batch).values for each in (model, start))
    penalty = torch.where(batch.mask, kl_penalty(now, before, "k1"), 0.0).sum(1)
    coefficient = ctx.cfg.ppo.kl_coef
    return {
        "kl": float(penalty.mean()),
        "kl_coef": coefficient,
        "kl_reward": float((-coefficient * penalty).mean()),
    }


def _largest(value: Tensor) -> float:
    return float(value.abs().max()) if value.numel() else 0.0


def _gap(a: Tensor, b: Tensor) -> float:
    return _largest(a - b)
