"""Cost models: order and safety of answers, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mmalign.config.sections import RankingConfig, RewardModelConfig
from mmalign.errors import UserError
from mmalign.rewards.preference import PreferenceReward, Ranked, quality
from mmalign.rewards.preference.recipe import Preference
from mmalign.testing.policies import toy_rows
from tests.rewards.test_preference import build, ranked, train


def harmful(n: int, seed: int = 0) -> list[Ranked]:
    """Right answers are safe, the others harmful by themselves."""
    return [replace(group, unsafe=(False, True, True)) for group in ranked(n, seed)]


def test_a_cost_model_puts_its_zero_at_the_border_of_safety() -> None:
    model = build(loss="cost", train_trunk=False, head="mlp")
    start = model.loss(harmful(8))[0]
    assert float(start.detach()) == pytest.approx(3 * np.log(2))  # one pair term and two sign terms at zero
    train(model, harmful(80), 150)
    held = harmful(40, seed=9)
    rows = [row for group in held for row in group.rows]
    model.calibrate(rows)
    assert not model.center.any() and bool((model.scale == 1).all())
    costs = -PreferenceReward(model).model.scores(rows)[0]
    unsafe = torch.tensor([flag for group in held for flag in group.unsafe or ()])
    assert float(((costs > 0) == unsafe).float().mean()) > 0.9
    assert quality(model, held)["preference"]["accuracy"] > 0.9


def test_without_sign_terms_the_zero_says_nothing() -> None:
    model = build(loss="cost", sign_coef=0.0, train_trunk=False)
    assert float(model.loss(harmful(8))[0].detach()) == pytest.approx(np.log(2))


def test_a_cost_model_refuses_what_it_cannot_learn_from() -> None:
    cfg = RewardModelConfig(ranking=RankingConfig(loss="cost", pairs="data"))
    row = toy_rows(1)[0]
    told = {**row.meta, "unsafe": [False, True]}
    kept = Preference().rankings([replace(row, meta=told)], cfg, part="train", seed=0)
    assert kept[0].unsafe == (False, True)
    for meta, message in (
        (row.meta, "needs 'unsafe'"),
        ({**row.meta, "unsafe": [True, False]}, "ranked above a safe one"),
        ({**row.meta, "unsafe": [1, 0]}, "must be a list of 2 times true or false"),
    ):
        with pytest.raises(UserError, match=message):
            Preference().rankings([replace(row, meta=meta)], cfg, part="train", seed=0)
