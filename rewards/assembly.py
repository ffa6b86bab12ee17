"""The terms of the ``reward`` section that every recipe shares, and how a recipe's terms become one reward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mmalign.errors import UserError
from mmalign.protocols import Reward
from mmalign.rewards.combine import AtEnd, Clip, WeightedSum
from mmalign.rewards.terms import FactBonus, LengthTerm, Malformed, SegmentBonus, TooShort, Unfinished

if TYPE_CHECKING:
    from mmalign.config.sections import RewardConfig
    from mmalign.feedback.facts import Extractor

__all__ = ["assembled", "form_terms"]


def form_terms(cfg: RewardConfig, extractor: Extractor) -> dict[str, Reward]:
    """Terms about the form of an answer: bonuses per segment and fact, malformed, unfinished, too short, length."""
    terms: dict[str, Reward] = {}
    well_formed = getattr(extractor, "well_formed", None)
    if cfg.segment_bonus:
        terms["bonus"] = SegmentBonus(cfg.segment_bonus, well_formed, extractor)
    if cfg.fact_bonus:
        terms["fact_bonus"] = FactBonus(cfg.fact_bonus, extractor)
    if cfg.malformed_penalty and well_formed is not None:
        terms["malformed"] = Malformed(well_formed, cfg.malformed_penalty)
    if cfg.unfinished_penalty:
        terms["unfinished"] = Unfinished(cfg.unfinished_penalty)
    if cfg.too_short_penalty:
        terms["too_short"] = TooShort(1, cfg.too_short_penalty)
    if cfg.length_coef:
        terms["length"] = LengthTerm(cfg.length_coef / cfg.length_steps)
    return terms


def assembled(
    cfg: RewardConfig, terms: Mapping[str, Reward], weights: Mapping[str, float] | None = None
) -> Reward:
    """Add the terms up, clip each step, and pay everything at the end where the section says so.

    Raises:
        UserError: when there is no term.
    """
    if not terms:
        raise UserError("reward: nothing is rewarded; choose a source or give a term a value")
    total: Reward = WeightedSum(terms, weights)
    if cfg.clip:
        total = Clip(total, cfg.clip)
    return AtEnd(total) if cfg.placement == "sequence" else total
