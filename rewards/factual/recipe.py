"""The reward recipe ``factual``: a preference model with facts in its prompt, and the symbolic terms beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mmalign.protocols import Judge, Likelihood, Reward
from mmalign.rewards.factual.facts import Facts
from mmalign.rewards.factual.terms import CorrectChoice, CorrectFacts
from mmalign.rewards.preference.data import Ranked
from mmalign.rewards.preference.metrics import quality
from mmalign.rewards.preference.model import PreferenceRewardModel
from mmalign.rewards.preference.recipe import Preference
from mmalign.rewards.preference.view import View
from mmalign.types import Row

if TYPE_CHECKING:
    from mmalign.config.sections import RewardConfig, RewardModelConfig
    from mmalign.feedback.facts import Extractor

__all__ = ["Factual"]


class Factual(Preference):
    """Facts in the reward model's prompt; a bonus for what the known truth confirms; length and stop terms.

    Reference: Sun et al. (2023, arXiv:2309.14525).  Differences: docs/rewards/factual.md.
    """

    name = "factual"

    def create(
        self, adapter: Likelihood, source: str, probe: Row, cfg: RewardModelConfig, *, device: str, dtype: str
    ) -> PreferenceRewardModel:
        """A reward model that starts from ``source`` and is told the configured facts."""
        model = super().create(adapter, source, probe, cfg, device=device, dtype=dtype)
        if cfg.facts.show != "none":
            facts = Facts("own", cfg.facts.column, cfg.facts.limit, cfg.facts.shuffle)
            model.view = replace(model.view, facts=facts, facts_template=cfg.facts.template)
        return model

    def prepare(
        self, model: PreferenceRewardModel, rankings: Sequence[Ranked], cfg: RewardModelConfig
    ) -> None:
        """For the control ``other``: draw from the training rows' facts."""
        if cfg.facts.show == "other":
            model.view = _swapped(model.view, rankings)

    def view(self, adapter: Likelihood, record: Mapping[str, Any]) -> View:
        """The view that was saved with a model, facts included."""
        view = super().view(adapter, record)
        if record["facts"] is None:
            return view
        return replace(view, facts=Facts.described(record["facts"]), facts_template=record["facts_template"])

    def measure(self, model: PreferenceRewardModel, rankings: Sequence[Ranked]) -> dict[str, Any]:
        """Held-out quality, and ``other_facts``: the same model told the facts of another row."""
        found = quality(model, rankings)
        own = model.view
        if isinstance(own.facts, Facts) and own.facts.show == "own" and len(rankings) > 1:
            model.view = _swapped(own, rankings)
            found["other_facts"] = quality(model, rankings)["preference"]
            model.view = own
        return found

    def truth_terms(self, cfg: RewardConfig, judge: Judge, extractor: Extractor) -> dict[str, Reward]:
        """The symbolic correctness bonus."""
        if not cfg.correct_bonus:
            return {}
        if cfg.correct_by == "choice":
            return {"correct": CorrectChoice(cfg.correct_bonus)}
        return {"correct": CorrectFacts(cfg.correct_bonus, judge, extractor, cfg.correct_types)}


def _swapped(view: View, rankings: Sequence[Ranked]) -> View:
    assert isinstance(view.facts, Facts)
    pool = view.facts.pooled([row for group in rankings for row in group.rows])
    return replace(view, facts=replace(view.facts, show="other", pool=pool))
