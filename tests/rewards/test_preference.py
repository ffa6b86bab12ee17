"""Reward models on compared answers: losses through the model, learning, ensembles, media candidates, storage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmalign.errors import UserError
from mmalign.objectives.reward_model import bradley_terry
from mmalign.rewards.preference import (
    PreferenceReward,
    PreferenceRewardModel,
    Ranked,
    View,
    quality,
    ranked_from_rows,
)
from mmalign.rewards.preference.heads import pooled
from mmalign.rewards.preference.options import Options
from mmalign.rng import generator
from mmalign.testing.policies import ToyAdapter, toy_answer, toy_rows

ADAPTER = ToyAdapter()


def build(**options: Any) -> PreferenceRewardModel:
    torch.manual_seed(0)
    return PreferenceRewardModel.build(ADAPTER, "toy:0", toy_rows(1)[0], Options(**options))


def randomised(model: PreferenceRewardModel) -> PreferenceRewardModel:
    rng = generator(0, "heads")
    for head in model.heads.values():
        torch.nn.init.normal_(head.last.weight, generator=rng)  # type: ignore[arg-type]
    return model


def ranked(n: int = 10, seed: int = 0) -> list[Ranked]:
    """Three answers per prompt: right, half right, wrong."""
    groups = []
    for row in toy_rows(n, seed):
        other = {**row.meta, "seen": (row.meta["seen"] + 1) % 3}
        worst = {**other, "said": (row.meta["said"] + 1) % 3}
        texts = [toy_answer(replace(row, meta=meta)) for meta in (row.meta, other, worst)]
        meta = {**row.meta, "answers": texts, "scores": [2, 1, 0]}
        groups += ranked_from_rows([replace(row, completion=None, chosen=None, rejected=None, meta=meta)])
    return groups


def train(model: PreferenceRewardModel, groups: list[Ranked], steps: int, lr: float = 1e-2) -> None:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr, weight_decay=0.0)
    for _ in range(steps):
        loss, _ = model.loss(groups)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_the_value_is_read_after_the_last_real_step() -> None:
    model = randomised(build())
    rows = [row for group in ranked(4) for row in group.rows]
    rows.append(replace(rows[0], id="short", completion="a ."))
    batch = ADAPTER.collate(rows)
    hidden = ADAPTER.logp(model.trunks["shared"], batch, hidden=True).hidden
    assert hidden is not None and len(set(batch.mask.sum(1).tolist())) > 1
    last = hidden[torch.arange(len(rows)), batch.mask.sum(1)]
    expected = model.heads["0"](last)
    assert torch.allclose(model.scores(rows, standard=False)[0], expected, atol=1e-6)


def test_scores_do_not_depend_on_batching_or_neighbours() -> None:
    rows = [row for group in ranked(5) for row in group.rows]
    for options in (
        {},
        {"pool": "sum", "read": "surprise", "head": "mlp"},
        {"pool": "mean", "read": "likelihood", "head": "mlp"},
    ):
        model = randomised(build(**options))
        together, alone = model.scores(rows), model.scores(rows, batch_size=1)
        assert torch.allclose(together, alone, atol=1e-5) and float(together.std()) > 1e-3


def test_pooling_ignores_padding() -> None:
    values = torch.tensor([[1.0, 2.0, 9.0], [4.0, 5.0, 6.0], [7.0, 7.0, 7.0]])
    mask = torch.tensor([[True, True, False], [True, True, True], [False, False, False]])
    assert pooled(values, mask, "last").tolist() == [2.0, 6.0, 0.0]
    assert pooled(values, mask, "sum").tolist() == [3.0, 15.0, 0.0]
    assert pooled(values, mask, "mean").tolist() == [1.5, 5.0, 0.0]
    wide = values[..., None].expand(3, 3, 2)
    assert pooled(wide, mask, "last").tolist() == [[2.0, 2.0], [6.0, 6.0], [0.0, 0.0]]


def test_two_candidates_give_bradley_terry_and_margins_reach_the_loss() -> None:
    rows = toy_rows(6)
    groups = ranked_from_rows([replace(row, meta={**row.meta, "margin": 0.5}) for row in rows])
    model = randomised(build(centering=0.01))
    pairs = [(group.rows[0], group.rows[1]) for group in groups]
    chosen, rejected = (model.scores([pair[k] for pair in pairs], standard=False)[0] for k in (0, 1))
    expected = bradley_terry(chosen, rejected, torch.full((6,), 0.5), 0.01)
    assert torch.allclose(model.loss(groups)[0], expected, atol=1e-6)
    listwise = randomised(build(loss="plackett_luce"))
    listwise.load_state_dict(model.state_dict())
    assert torch.allclose(listwise.loss(groups)[0], bradley_terry(chosen, rejected), atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"loss": "plackett_luce"},
        {"loss": "pairwise"},
        {"members": 2, "shared_trunk": False, "bootstrap": True},
        {"pool": "sum", "read": "surprise", "head": "mlp", "train_trunk": False},
    ],
    ids=lambda options: ",".join(f"{k}={v}" for k, v in options.items()) or "default",
)
def test_every_kind_learns_to_rank_unseen_answers(options: dict[str, Any]) -> None:
    model, held = build(**options), ranked(20, seed=5)
    before = quality(model, held)["preference"]["accuracy"]
    assert before == 0.5  # the heads start at 0: every pair is a tie
    train(model, ranked(36, seed=1), 60)
    found = quality(model, held)["preference"]
    assert found["accuracy"] > 0.8 and found["n"] == 60 and found["ci_low"] > 0.65
    assert found["auc"] > 0.8 and 0 <= found["ece"] <= 1 and found["longer"] == 0.5


def test_a_frozen_trunk_stays_as_it_is_and_is_read_once() -> None:
    model, groups = build(train_trunk=False, head="mlp"), ranked(4)
    before = [p.clone() for p in model.trunks.parameters()]
    train(model, groups, 3)
    assert all(torch.equal(a, b) for a, b in zip(before, model.trunks.parameters(), strict=True))
    assert len(model._kept) == 12


def test_a_pairwise_model_is_antisymmetric_and_may_be_intransitive() -> None:
    rows = [row for group in ranked(4) for row in group.rows]
    model = randomised(build(loss="pairwise"))
    first, second = rows, rows[1:] + rows[:1]
    odds = model.odds(first, second)
    assert torch.allclose(odds, -model.odds(second, first), atol=1e-6) and float(odds.abs().max()) > 1e-3
    assert torch.allclose(model.odds(rows, rows), torch.zeros(1, len(rows)), atol=1e-6)
    with pytest.raises(UserError, match="scores no answer"):
        model.scores(rows)
    # rock, paper, scissors: a head on both states fits a cycle, which no score can
    cycle = [Ranked((rows[k], rows[(k + 1) % 3]), (1.0, 0.0)) for k in range(3)]
    model = build(loss="pairwise", train_trunk=False)
    train(model, cycle, 120, lr=2e-2)
    assert bool((model.odds([g.rows[0] for g in cycle], [g.rows[1] for g in cycle]) > 0).all())


def test_a_pairwise_model_may_read_the_rival_in_its_prompt() -> None:
    groups = [
        Ranked(tuple(replace(row, prompt="d") for row in group.rows), group.worth)
        for group in ranked(12, seed=2)
    ]
    view = View(ADAPTER, rival_template="{prompt} {rival}")
    options = Options(loss="pairwise", compare="text")
    model = randomised(PreferenceRewardModel.build(ADAPTER, "toy:0", groups[0].rows[0], options, view=view))
    first, second = [g.rows[0] for g in groups], [g.rows[1] for g in groups]
    odds = model.odds(first, second)
    assert torch.allclose(odds, -model.odds(second, first), atol=1e-5)
    rival = [replace(row, completion="c .") for row in second]
    assert not torch.allclose(odds, model.odds(first, rival), atol=1e-4)
    before = model.loss(groups)[0].item()
    train(model, groups, 25)
    assert model.loss(groups)[0].item() < before - 0.1


def test_candidates_may_be_media() -> None:
    """Two media for one prompt and one answer: only the medium says which is better."""

    def group(k: int) -> Ranked:
        row = toy_rows(40, seed=9)[k]
        wrong = np.roll(row.media[0], 1)
        bare = replace(row, media=(), chosen=row.completion, rejected=row.completion)
        return ranked_from_rows([replace(bare, chosen_media=row.media, rejected_media=(wrong,))])[0]

    groups = [group(k) for k in range(40)]
    assert groups[0].rows[0].completion == groups[0].rows[1].completion
    model = build()
    train(model, groups[:25], 80)
    assert quality(model, groups[25:])["preference"]["accuracy"] > 0.8


def test_an_ensemble_disagrees_and_is_cautious() -> None:
    model = build(members=3, head="mlp", bootstrap=True)
    groups = ranked(12)
    train(model, groups, 20)
    rollout = ADAPTER.sample(ADAPTER.load("toy:3"), toy_rows(6), 2, generator(0, "r"), max_steps=6)
    model.calibrate([row for group in groups for row in group.rows])
    bold, cautious = PreferenceReward(model)(rollout), PreferenceReward(model, k=2.0)(rollout)
    members = model.scores(rollout.rows)
    assert torch.allclose(bold.per_step.sum(1), members.mean(0), atol=1e-5)
    assert torch.allclose(
        cautious.per_step.sum(1), members.mean(0) - 2 * members.std(0, correction=0), atol=1e-5
    )
    assert float(members.std(0).min()) > 0 and set(cautious.parts) == {"preference", "disagreement"}
    last = rollout.mask.sum(1) - 1
    assert torch.equal(bold.per_step.nonzero()[:, 1], last)
    with pytest.raises(UserError, match="learn the same"):
        Options(members=2)


def test_calibration_gives_mean_0_and_standard_deviation_1() -> None:
    model = randomised(build(members=2, head="mlp"))
    rows = [row for group in ranked(6) for row in group.rows]
    model.calibrate(rows)
    scores = model.scores(rows)
    assert torch.allclose(scores.mean(1), torch.zeros(2), atol=1e-5)
    assert torch.allclose(scores.std(1, correction=0), torch.ones(2), atol=1e-5)


@pytest.mark.parametrize("pool", ["last", "sum", "mean"])
def test_each_step_is_paid_its_part_and_the_total_is_the_score(pool: Any) -> None:
    model = randomised(build(pool=pool, members=2, head="mlp"))
    rollout = ADAPTER.sample(ADAPTER.load("toy:3"), toy_rows(6), 2, generator(0, "r"), max_steps=6)
    model.calibrate(rollout.rows)
    paid = PreferenceReward(model)(rollout).per_step
    assert torch.allclose(paid.sum(1), model.scores(rollout.rows).mean(0), atol=1e-5)
    assert torch.equal(paid[~rollout.mask], torch.zeros(int((~rollout.mask).sum())))
    inside = paid.clone()
    inside[torch.arange(len(rollout)), rollout.mask.sum(1) - 1] = 0
    assert bool(inside.any()) == (pool != "last")
    reading = model._read("shared", rollout.rows[:1], None)[0]
    if pool == "mean":
        values = torch.stack([head(reading.features) for head in model.heads.values()])
        wanted = (values - model.center[:, None]) / model.scale[:, None] / values.shape[1]
        assert torch.allclose(paid[0, : values.shape[1]], wanted.mean(0), atol=1e-5)


def test_pairwise_reward_compares_the_answers_of_a_group() -> None:
    model = randomised(build(loss="pairwise"))
    rollout = ADAPTER.sample(ADAPTER.load("toy:1"), toy_rows(3), 3, generator(0, "g"), max_steps=6)
    totals = PreferenceReward(model)(rollout).per_step.sum(1).view(3, 3)
    assert torch.allclose(totals.sum(1), torch.zeros(3), atol=1e-5)  # a zero-sum game within each prompt
    assert float(totals.abs().max()) <= 0.5
    single = ADAPTER.sample(ADAPTER.load("toy:1"), toy_rows(3), 1, generator(0, "g"), max_steps=6)
    with pytest.raises(UserError, match="num_generations"):
        PreferenceReward(model)(single)


def test_saved_and_loaded_scores_are_equal(tmp_path: Path) -> None:
    rows = [row for group in ranked(4) for row in group.rows]
    for options in (
        {"members": 2, "shared_trunk": False, "head": "mlp"},
        {"pool": "sum", "read": "surprise"},
    ):
        model = randomised(build(**options))
        model.calibrate(rows)
        folder = tmp_path / str(len(options))
        model.save(folder)
        again = PreferenceRewardModel.load(ADAPTER, folder)
        assert again.options == model.options and torch.equal(again.scores(rows), model.scores(rows))
    with pytest.raises(UserError, match="no preference reward model"):
        PreferenceRewardModel.load(ADAPTER, tmp_path)


def test_lm_coef_adds_the_likelihood_of_the_best_answer() -> None:
    groups = ranked(5)
    plain, joint = randomised(build()), randomised(build(lm_coef=0.3))
    best = [group.rows[0] for group in groups]
    batch = ADAPTER.collate(best)
    logp = ADAPTER.logp(plain.trunks["shared"], batch)
    nll = -logp.values[logp.mask].mean()
    assert torch.allclose(joint.loss(groups)[0] - plain.loss(groups)[0], 0.3 * nll, atol=1e-5)
