"""How a recipe's configuration becomes FGAIF's reward models and the reward made of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmalign.errors import UserError
from mmalign.protocols import Judge, Likelihood, Reward
from mmalign.rewards.assembly import assembled, form_terms
from mmalign.rewards.fgaif.data import label_means
from mmalign.rewards.fgaif.metrics import quality
from mmalign.rewards.fgaif.model import SegmentRewardModel
from mmalign.rewards.fgaif.oracle import OracleReward
from mmalign.rewards.fgaif.reward import FGAIFReward
from mmalign.rewards.shaping import Shaping
from mmalign.types import Rollout, Row, StepReward

if TYPE_CHECKING:
    from mmalign.config.schema import RewardConfig, RewardModelConfig
    from mmalign.feedback.facts import Extractor

__all__ = ["FGAIF"]


class FGAIF:
    """The reward recipe ``fgaif``: three segment reward models and the dense reward they give."""

    name = "fgaif"

    def create(
        self, adapter: Likelihood, source: str, probe: Row, cfg: RewardModelConfig, *, device: str, dtype: str
    ) -> SegmentRewardModel:
        """Reward models that start from the policy ``source``; ``probe`` is any answered row."""
        return SegmentRewardModel.build(
            adapter,
            source,
            probe,
            cfg.types,
            shared_trunk=cfg.shared_trunk,
            context=cfg.context,
            read=cfg.read,
            head=cfg.head,
            train_trunk=cfg.train_trunk,
            blank_media=cfg.blank_media,
            device=device,
            dtype=dtype,
        )

    def load(self, adapter: Likelihood, folder: Path, *, device: str, dtype: str) -> SegmentRewardModel:
        """Read trained reward models."""
        return SegmentRewardModel.load(adapter, folder, device=device, dtype=dtype)

    def measure(self, model: SegmentRewardModel, rows: Sequence[Row]) -> dict[str, Any]:
        """Held-out quality per type; numbers that do not exist (no such segment) are null."""
        found = quality(model.predict(rows), rows)
        return {
            kind: {
                view: {
                    name: None if value is None or math.isnan(value) else value
                    for name, value in numbers.items()
                }
                for view, numbers in views.items()
            }
            for kind, views in found.items()
        }

    def baseline(self, rows: Sequence[Row]) -> dict[str, float]:
        """Mean label per type over the applicable segments of the start policy's answers."""
        types = sorted({kind for row in rows for segment in row.segments for kind in segment.labels})
        return dict(label_means(rows, types))

    def reward(
        self,
        cfg: RewardConfig,
        *,
        model: SegmentRewardModel | None,
        judge: Judge,
        extractor: Extractor,
        baseline: Mapping[str, float],
    ) -> Callable[[Rollout], StepReward]:
        """Assemble the reward: feedback on segments plus the terms, clipped, dense or at the end.

        Raises:
            UserError: when the models are asked for and were not trained.
        """
        shaping = Shaping(
            weights=dict(cfg.weights),
            length=cfg.length,
            baseline=baseline,
            repeat_penalty=cfg.repeat_penalty,
        )
        terms: dict[str, Reward] = {}
        if cfg.source == "model":
            if model is None:
                raise UserError(
                    "reward.source: model needs trained reward models; run the reward_model stage first"
                )
            terms["fgaif"] = FGAIFReward(model, shaping, cfg.mode, extractor)
        elif cfg.source == "judge":
            terms["judge"] = OracleReward(judge, extractor, shaping)
        return assembled(cfg, {**terms, **form_terms(cfg, extractor)})
