"""How a recipe's configuration becomes a preference reward model and the reward made of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmalign.errors import UserError
from mmalign.protocols import Judge, Likelihood, Reward
from mmalign.rewards.assembly import assembled, form_terms
from mmalign.rewards.preference.data import (
    Ranked,
    prompt_id,
    ranked_from_feedback,
    ranked_from_rows,
    shuffled,
    with_margins,
)
from mmalign.rewards.preference.metrics import quality
from mmalign.rewards.preference.model import PreferenceRewardModel
from mmalign.rewards.preference.options import Options
from mmalign.rewards.preference.reward import PreferenceReward
from mmalign.rewards.preference.storage import read_record
from mmalign.rewards.preference.view import View
from mmalign.rewards.watch import WatchTruth
from mmalign.types import Rollout, Row, StepReward

if TYPE_CHECKING:
    from mmalign.config.sections import RewardConfig, RewardModelConfig
    from mmalign.feedback.facts import Extractor

__all__ = ["Preference", "options_of"]

CALIBRATION = 256
"""Prompts whose answers set the score's zero and unit."""


class Preference:
    """The reward recipe ``preference``: one model of ranked answers, paid on the last real step."""

    name = "preference"

    def create(
        self, adapter: Likelihood, source: str, probe: Row, cfg: RewardModelConfig, *, device: str, dtype: str
    ) -> PreferenceRewardModel:
        """A reward model that starts from ``source``; ``probe`` is any answered row."""
        view = View(adapter, media_scale=0.0 if cfg.blank_media else cfg.ranking.media_scale)
        return PreferenceRewardModel.build(
            adapter, source, probe, options_of(cfg), view=view, device=device, dtype=dtype
        )

    def load(self, adapter: Likelihood, folder: Path, *, device: str, dtype: str) -> PreferenceRewardModel:
        """Read a trained reward model."""
        view = self.view(adapter, read_record(folder)["view"])
        return PreferenceRewardModel.load(adapter, folder, view=view, device=device, dtype=dtype)

    def view(self, adapter: Likelihood, record: Mapping[str, Any]) -> View:
        """The view that was saved with a model."""
        return View(adapter, record["media_scale"], rival_template=record["rival_template"])

    def rankings(self, rows: Sequence[Row], cfg: RewardModelConfig, *, part: str, seed: int) -> list[Ranked]:
        """Ranked answers of ``part``; under ``ranking.shuffle`` those of ``train`` are put out of order."""
        ranking = cfg.ranking
        if ranking.pairs == "feedback":
            groups = ranked_from_feedback(rows, ranking.rank_by)
        else:
            groups = ranked_from_rows(rows)
        train = part == "train"
        if ranking.loss == "cost":
            _check_safety(groups)
        groups = groups[: ranking.n_train if train else ranking.n_heldout]
        if train and ranking.shuffle:
            groups = shuffled(groups, seed)
        return with_margins(groups, ranking.margin)

    def prepare(
        self, model: PreferenceRewardModel, rankings: Sequence[Ranked], cfg: RewardModelConfig
    ) -> None:
        """Nothing to do before training."""

    def settle(self, model: PreferenceRewardModel, rankings: Sequence[Ranked]) -> None:
        """Set the score's zero and unit on training answers of the start policy."""
        model.calibrate([row for group in rankings[:CALIBRATION] for row in group.rows])

    def measure(self, model: PreferenceRewardModel, rankings: Sequence[Ranked]) -> dict[str, Any]:
        """Held-out quality."""
        return quality(model, rankings)

    def baseline(self, rankings: Sequence[Ranked]) -> dict[str, float]:
        """Nothing: scores are standardised by the model itself."""
        return {}

    def reward(
        self,
        cfg: RewardConfig,
        *,
        model: PreferenceRewardModel | None,
        judge: Judge,
        extractor: Extractor,
        baseline: Mapping[str, float],
    ) -> Callable[[Rollout], StepReward]:
        """Assemble the reward: the score and the terms of the section, each switched off by a 0.

        Raises:
            UserError: when the model is asked for and was not trained, or the judge is to take its place.
        """
        terms: dict[str, Reward] = {}
        weights: dict[str, float] = {}
        if cfg.source == "judge":
            raise UserError(f"reward.source: {self.name} has no judge in its place; set it to model or none")
        if cfg.source == "model" and cfg.model_weight:
            if model is None:
                raise UserError(
                    "reward.source: model needs a trained reward model; run the stage reward_model"
                )
            terms["score"] = PreferenceReward(model, cfg.uncertainty)
            weights["score"] = cfg.model_weight
        terms |= self.truth_terms(cfg, judge, extractor)
        made = assembled(cfg, {**terms, **form_terms(cfg, extractor)}, weights)
        return WatchTruth(made, judge, extractor) if cfg.watch_truth else made

    def truth_terms(self, cfg: RewardConfig, judge: Judge, extractor: Extractor) -> dict[str, Reward]:
        """Terms that look at the known truth: none here.

        Raises:
            UserError: when the section asks for one.
        """
        if cfg.correct_bonus:
            raise UserError(f"reward.correct_bonus: belongs to the recipe factual, not to {self.name}")
        return {}


def options_of(cfg: RewardModelConfig) -> Options:
    """The section as the model's options; an ensemble trains heads on one trunk unless ``shared_trunk`` is false."""
    ranking = cfg.ranking
    return Options(
        loss=ranking.loss,
        pool=ranking.pool,
        read=ranking.read,
        head=cfg.head,
        compare=ranking.compare,
        members=ranking.members,
        shared_trunk=cfg.shared_trunk,
        train_trunk=cfg.train_trunk,
        bootstrap=ranking.bootstrap,
        centering=ranking.centering,
        lm_coef=ranking.lm_coef,
        sign_coef=ranking.sign_coef,
    )


def _check_safety(groups: Sequence[Ranked]) -> None:
    """Refuse rankings that a cost model cannot learn from.

    Raises:
        UserError: for answers whose safety is not known, or an unsafe answer ranked above a safe one.
    """
    for group in groups:
        name = prompt_id(group.rows[0])
        if group.unsafe is None:
            raise UserError(
                f"row {name}: ranking.loss cost needs 'unsafe', a list of true or false with one entry per answer"
            )
        safe = [worth for worth, unsafe in zip(group.worth, group.unsafe, strict=True) if not unsafe]
        harmful = [worth for worth, unsafe in zip(group.worth, group.unsafe, strict=True) if unsafe]
        if safe and harmful and max(harmful) > min(safe):
            raise UserError(
                f"row {name}: an unsafe answer is ranked above a safe one, which no cost can say; rank "
                "labelled answers by ranking.rank_by: errors_first"
            )
