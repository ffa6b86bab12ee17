"""The arithmetic of step rewards: where a number is placed, how rewards are scaled and clipped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmalign.objectives.masked import masked_sum
from mmalign.objectives.shapes import check_steps, fill

__all__ = [
    "RunningMoments",
    "clip_rewards",
    "normalize_rewards",
    "place_at_segments",
    "sequence_placement",
    "update_moments",
]


def place_at_segments(
    values: Sequence[Tensor | Sequence[float]], spans: Sequence[Sequence[tuple[int, int]]], steps: int
) -> Tensor:
    """Write each segment's value on the segment's last step: ``r[b, end - 1] += value``.

    The sum over steps equals the sum over segments (gamma 1: dense rewards add up to the holistic score).

    *Reference:* Wu et al., Fine-Grained RLHF (2023, arXiv:2306.01693), eq. 2. *Differs from paper:* spans
    are recorded at generation, not found by re-tokenising.

    Args:
        values: per sample, one value per segment.
        spans: per sample, half-open step spans ``(start, end)``, one per segment.
        steps: T.

    Returns:
        ``[B, T]``, float32 or the dtype of the first tensor given.

    Raises:
        ValueError: naming the sample and segment of a span that is empty or outside [0, T], or a count that
            differs from the number of values.
    """
    dtype = next((v.dtype for v in values if isinstance(v, Tensor)), torch.float32)
    device = next((v.device for v in values if isinstance(v, Tensor)), torch.device("cpu"))
    placed = torch.zeros(len(values), steps, dtype=dtype, device=device)
    if len(spans) != len(values):
        raise ValueError(f"{len(values)} samples of values but {len(spans)} of spans")
    for b, (row, row_spans) in enumerate(zip(values, spans, strict=True)):
        if len(row) != len(row_spans):
            raise ValueError(f"sample {b} has {len(row)} values for {len(row_spans)} segments")
        for s, (start, end) in enumerate(row_spans):
            if not 0 <= start < end <= steps:
                raise ValueError(
                    f"segment {s} of sample {b} spans [{start}, {end}), outside 0 to {steps} or empty"
                )
            placed[b, end - 1] = placed[b, end - 1] + row[s]
    return placed


def sequence_placement(per_step: Tensor, mask: Tensor) -> Tensor:
    """Move a sequence's whole reward onto its last **real** step: same return, no dense credit.

    Args:
        per_step: ``[B, T]`` rewards; what lies off the mask is ignored.
        mask: ``[B, T]`` bool.

    Returns:
        ``[B, T]``; a row without a real step stays 0.

    Raises:
        ValueError: on shapes that differ.
    """
    check_steps(mask, {"per_step": per_step})
    position = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    last = torch.where(mask, position, torch.full_like(position, -1)).amax(dim=1, keepdim=True)
    total = masked_sum(per_step, mask, dim=1).unsqueeze(1).to(per_step.dtype)
    return torch.where(position == last, total, torch.zeros_like(per_step))


def clip_rewards(per_step: Tensor, limit: float) -> Tensor:
    """Clamp every step's reward to ``[-limit, limit]``; clip *after* scaling, *before* the KL term.

    Args:
        per_step: ``[B, T]`` rewards.
        limit: > 0, in the reward's unit; ``inf`` for none.

    Raises:
        ValueError: when ``limit`` is not positive.
    """
    if not limit > 0:
        raise ValueError(f"the clip limit must be positive, got {limit}")
    return per_step.clamp(-limit, limit)


@dataclass(frozen=True, slots=True)
class RunningMoments:
    """Count, mean and sum of squared deviations of every reward seen: three floats, kept in checkpoints."""

    count: float = 0.0
    mean: float = 0.0
    m2: float = 0.0

    @property
    def std(self) -> float:
        """Population standard deviation; 1 while fewer than two rewards, or only equal ones, were seen."""
        return math.sqrt(self.m2 / self.count) if self.count > 1 and self.m2 > 0 else 1.0


def update_moments(state: RunningMoments, rewards: Tensor, mask: Tensor) -> RunningMoments:
    """The state after these rewards too (Chan's parallel update, in float64); the old one is untouched.

    *Reference:* Chan, Golub & LeVeque (1983). *Differs from paper:* none.

    Args:
        state: what was seen so far; ``RunningMoments()`` at the start.
        rewards: ``[B, T]``; give a mask true on the steps that carry a reward.
        mask: ``[B, T]`` bool.

    Raises:
        ValueError: on shapes that differ or a reward that is not finite.
    """
    check_steps(mask, {"rewards": rewards})
    seen = rewards[mask].double()
    if seen.numel() == 0:
        return state
    if not bool(torch.isfinite(seen).all()):
        raise ValueError("a reward is not finite: the running statistics were left as they were")
    n, mean = float(seen.numel()), float(seen.mean())
    m2, delta, count = float((seen - seen.mean()).square().sum()), mean - state.mean, state.count + n
    return RunningMoments(
        count, state.mean + delta * n / count, state.m2 + m2 + delta * delta * state.count * n / count
    )


def normalize_rewards(
    rewards: Tensor, state: RunningMoments, mask: Tensor, shift_mean: bool = False
) -> Tensor:
    """Divide by the running standard deviation, 0 off the mask.

    Per-step rewards must not be shifted: subtracting a mean pays every further step and so changes lengths.
    Shift only a single terminal score.

    *Reference:* Zheng et al., Secrets of RLHF I (2023, arXiv:2307.04964), section 5.3 (PPO-max).
    *Differs from paper:* no shift by default, as in the authors' script.

    Args:
        rewards: ``[B, T]``.
        state: the running statistics.
        mask: ``[B, T]`` bool, true on the steps that carry a reward.
        shift_mean: subtract the running mean first.

    Raises:
        ValueError: on shapes that differ.
    """
    check_steps(mask, {"rewards": rewards})
    return fill((rewards - (state.mean if shift_mean else 0.0)) / (state.std + 1e-8), mask)
