"""From scores of pictures to a reward on the last real step, batch by batch; missing scores stay neutral."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mmalign.errors import UserError
from mmalign.rewards.pictures.tensors import as_tensor
from mmalign.rewards.placing import last_steps, place
from mmalign.types import Rollout, Row, StepReward

__all__ = ["Score", "filled", "paid", "scored"]

Score = Callable[[Sequence[Row], Tensor], Tensor]
"""``(rows, pictures [B, 3, H, W] in [0, 1]) -> [B]``."""


@torch.no_grad()
def scored(score: Score, rows: Sequence[Row], batch_size: int) -> Tensor:
    """Scores ``[B]`` of the rows' own answers; pictures of one size go through together."""
    pictures = [as_tensor(row) for row in rows]
    by_size: dict[tuple[int, ...], list[int]] = {}
    for place_, picture in enumerate(pictures):
        by_size.setdefault(tuple(picture.shape), []).append(place_)
    values = torch.zeros(len(rows))
    for places in by_size.values():
        for start in range(0, len(places), batch_size):
            chunk = places[start : start + batch_size]
            found = score([rows[k] for k in chunk], torch.stack([pictures[k] for k in chunk]))
            values[chunk] = found.float().cpu()
    return values


def paid(name: str, score: Score, rollout: Rollout, batch_size: int = 32) -> StepReward:
    """One value per answer on its last real step, as the part ``name``."""
    return _placed(name, scored(score, rollout.rows, batch_size), rollout)


def filled(name: str, values: Tensor, valid: Tensor, rollout: Rollout) -> StepReward:
    """:func:`paid` where some scores are missing: these take the mean of their prompt's valid ones.

    Then a missing score has advantage 0 and shifts no other answer's baseline; it is never read as 0.  A prompt without
    a valid score takes the mean of the batch.  The note ``<name>/valid`` says which scores were given.

    Args:
        name: of the part.
        values: ``[B]``; anything where ``valid`` is false.
        valid: ``[B]`` bool.
        rollout: the answers.

    Raises:
        UserError: when no score of the batch is valid.
    """
    if not bool(valid.any()):
        raise UserError(
            f"reward {name}: not one of {len(valid)} replies could be read; look at the judge's replies"
        )
    known = torch.where(valid, values, torch.zeros_like(values))
    every = known.sum() / valid.sum()
    group = rollout.group.cpu()
    out = known.clone()
    for place_ in (~valid).nonzero().flatten().tolist():
        same = (group == group[place_]) & valid
        out[place_] = known[same].mean() if bool(same.any()) else every
    reward = _placed(name, out, rollout)
    return StepReward(reward.per_step, reward.parts, {f"{name}/valid": valid.float()})


def _placed(name: str, values: Tensor, rollout: Rollout) -> StepReward:
    ends = last_steps(rollout.mask)
    entries = [(b, t, float(v)) for b, (t, v) in enumerate(zip(ends, values, strict=True)) if t >= 0]
    per_step = place(rollout.mask, entries)
    return StepReward(per_step, {name: per_step})
