"""Rewards of pieces of the tunes world: adherence by a contrastive model, guessed quality, their sum, and the oracle.

MusicRL's reward R is adherence plus quality; its U is a ``preference`` reward model of users' choices
(:class:`mmalign.worlds.tunes.users.TunesUsers` makes them).  Each value stands on the last step of the answer.

*Reference:* Cideron et al., MusicRL: Aligning Music Generation to Human Preferences (2024), arXiv:2402.04229.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mmalign.errors import UserError
from mmalign.protocols import Reward
from mmalign.rewards.combine import WeightedSum
from mmalign.rewards.placing import last_steps, place
from mmalign.types import Rollout, Row, StepReward
from mmalign.worlds.tunes.captions import read_caption
from mmalign.worlds.tunes.hearing import heard
from mmalign.worlds.tunes.listener import JUDGE, Listener, attributes_heard
from mmalign.worlds.tunes.quality import QUALITY, Quality
from mmalign.worlds.tunes.towers import TOWERS, Towers

__all__ = ["MusicR", "TunesAdherence", "TunesQuality", "TunesTruth"]

_BATCH = 128


class TunesAdherence:
    """Cosine of caption and piece under the contrastive model, clipped to 0..1.

    Args:
        weights: the model's file.
    """

    def __init__(self, weights: str | None = None) -> None:
        self.model = Towers.load(Path(weights) if weights else TOWERS)

    def __call__(self, rollout: Rollout) -> StepReward:
        """Return the cosine of every answer on its last step."""
        return _paid("adherence", rollout, self._score)

    def _score(self, rows: Sequence[Row], bands: Tensor) -> Tensor:
        return self.model.cosine([_caption(row) for row in rows], bands).clamp(0, 1)


class TunesQuality:
    """The quality net's guess, clipped to its labels' 1..5 and rescaled to 0..1; the note ``quality/mos`` is on 1..5.

    Args:
        weights: the net's file.
    """

    def __init__(self, weights: str | None = None) -> None:
        self.model = Quality.load(Path(weights) if weights else QUALITY)

    def __call__(self, rollout: Rollout) -> StepReward:
        """Return the rescaled score of every answer on its last step."""
        paid = _paid("quality", rollout, lambda _, bands: (self.model.score(bands) - 1) / 4)
        return StepReward(paid.per_step, paid.parts, {"quality/mos": 1 + 4 * paid.per_step.sum(1)})


class TunesTruth:
    """The oracle: share of what the caption mentions that the world's judge hears.

    Args:
        weights: the judge's file.
    """

    def __init__(self, weights: str | None = None) -> None:
        self.model = Listener.load(Path(weights) if weights else JUDGE)

    def __call__(self, rollout: Rollout) -> StepReward:
        """Return the share for every answer on its last step."""
        return _paid("truth", rollout, self._score)

    def _score(self, rows: Sequence[Row], bands: Tensor) -> Tensor:
        shares = []
        for row, found in zip(rows, attributes_heard(self.model, bands), strict=True):
            asked = read_caption(_caption(row))
            if not asked:
                raise UserError(f'row "{row.id}": the caption mentions no attribute of the tunes world')
            shares.append(sum(found[name] == value for name, value in asked.items()) / len(asked))
        return torch.tensor(shares)


class MusicR:
    """MusicRL's reward R: ``adherence * TunesAdherence + quality * TunesQuality``.

    *Differs from paper:* both parts come from this world's small models, and the weights are this world's.

    Args:
        adherence: weight of the contrastive model.
        quality: weight of the quality net.
    """

    def __init__(self, adherence: float = 2.0, quality: float = 1.0) -> None:
        terms: dict[str, Reward] = {"adherence": TunesAdherence(), "quality": TunesQuality()}
        self.sum = WeightedSum(terms, {"adherence": adherence, "quality": quality})

    def __call__(self, rollout: Rollout) -> StepReward:
        """Return the weighted sum with both parts."""
        return self.sum(rollout)


def _caption(row: Row) -> str:
    if not isinstance(row.prompt, str):
        raise UserError(f'row "{row.id}": the prompt must be a caption, found {type(row.prompt).__name__}')
    return row.prompt


@torch.no_grad()
def _paid(name: str, rollout: Rollout, score: Callable[[Sequence[Row], Tensor], Tensor]) -> StepReward:
    """``score(rows, bands)`` on the last real step of every answer."""
    rows = rollout.rows
    values = [
        score(rows[k : k + _BATCH], heard([row.completion for row in rows[k : k + _BATCH]]))
        for k in range(0, len(rows), _BATCH)
    ]
    ends = last_steps(rollout.mask)
    entries = [
        (b, t, float(v)) for b, (t, v) in enumerate(zip(ends, torch.cat(values), strict=True)) if t >= 0
    ]
    per_step = place(rollout.mask, entries)
    return StepReward(per_step, {name: per_step})
