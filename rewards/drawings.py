"""The exact reward of the drawings world: what a detector sees, held against what the prompt asked for."""

from __future__ import annotations

import torch
from torch import Tensor

from mmalign.errors import UserError, nearest
from mmalign.rewards.pictures.tensors import prompt_text
from mmalign.rewards.placing import last_steps, place
from mmalign.types import Rollout, StepReward
from mmalign.worlds.drawings import DETECTORS, detect, judge, pixels_of, read_prompt

__all__ = ["DrawingTruth"]


class DrawingTruth:
    """F1 of the bound objects, the relation, a fine for what was not asked for, and a bonus for an exact picture.

    With ``F1 = 2 matched / (wanted + found)``, where an unreadable cell counts as an object found, a picture earns
    ``(1 - relation_weight) F1 + relation_weight [relation holds]`` where the prompt has a relation, else ``F1``; minus
    ``extra_penalty`` for every extra object or unreadable cell; plus ``exact_bonus`` where nothing is wrong.  Recall
    alone would pay for drawing everything at once; a larger fine than the default's would pay for leaving out what was
    asked for (two right objects and a stray one must earn more than one right object alone).

    Args:
        detector: ``template``, ``network``, or ``both`` (the mean of the two).
        relation_weight: share of the relation, 0 to 1.
        extra_penalty: fine per extra object or unreadable cell, 0 or more.
        exact_bonus: paid for an exact picture.

    Raises:
        UserError: when an option is out of range.
    """

    def __init__(
        self,
        detector: str = "template",
        relation_weight: float = 0.4,
        extra_penalty: float = 0.1,
        exact_bonus: float = 1.0,
    ) -> None:
        known = (*DETECTORS, "both")
        if detector not in known:
            raise UserError(
                f'detector "{detector}" is not one of {", ".join(known)}{nearest(detector, known)}'
            )
        if not 0 <= relation_weight <= 1 or extra_penalty < 0 or exact_bonus < 0:
            raise UserError(
                f"relation_weight must lie in 0..1 and extra_penalty and exact_bonus must not be negative, found "
                f"{relation_weight}, {extra_penalty} and {exact_bonus}"
            )
        self.detectors = DETECTORS if detector == "both" else (detector,)
        self.relation_weight, self.extra_penalty, self.exact_bonus = (
            relation_weight,
            extra_penalty,
            exact_bonus,
        )

    def __call__(self, rollout: Rollout) -> StepReward:
        """Return the reward of every picture on its last step, in the parts objects, relation, extra and exact.

        Raises:
            UserError: naming the row whose answer is no picture or whose prompt is not of this world.
        """
        values = torch.stack([self._earned(rollout, name) for name in self.detectors]).mean(0)
        ends = last_steps(rollout.mask)
        parts = {
            part: place(rollout.mask, [(b, t, float(values[b, k])) for b, t in enumerate(ends) if t >= 0])
            for k, part in enumerate(("objects", "relation", "extra", "exact"))
        }
        return StepReward(sum(parts.values(), torch.zeros_like(parts["objects"])), parts)

    def _earned(self, rollout: Rollout, detector: str) -> Tensor:
        """What every answer earns per part ``[B, 4]``."""
        pictures = []
        for row in rollout.rows:
            try:
                pictures.append(pixels_of(row.completion))
            except UserError as error:
                raise UserError(f"row {row.id!r}: {error}") from error
        earned = []
        for row, reading in zip(rollout.rows, detect(pictures, detector), strict=True):
            counts = judge(read_prompt(prompt_text(row)), reading)
            wrong = counts["extra"] + counts["unreadable"]
            f1 = 2 * counts["matched"] / (counts["wanted"] + counts["found"] + counts["unreadable"])
            share = self.relation_weight if counts["relation_asked"] else 0.0
            fine, bonus = -self.extra_penalty * wrong, self.exact_bonus * counts["exact"]
            earned.append(((1 - share) * f1, share * counts["relation"], fine, bonus))
        return torch.tensor(earned).reshape(-1, 4)
