"""The parts of the iterative loop: snapshots, choices, labels, the mixture."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from mmalign.data.pairs import pair_of
from mmalign.engine.iterate.collect import Drawing, draw, draw_mixture, sequence_logps
from mmalign.engine.iterate.label import JudgeLabels, PolicyComparer, RewardLabels
from mmalign.engine.iterate.loop import RewardMemory
from mmalign.engine.iterate.select import (
    best_against_worst,
    best_of_each,
    data_items,
    penalised,
    random_of_each,
    top_of_all,
)
from mmalign.engine.iterate.snapshot import Snapshot, SnapshotReference
from mmalign.engine.pairs import pair_objective
from mmalign.engine.reference import Reference
from mmalign.errors import UserError
from mmalign.feedback.pairwise import OrderSwapped
from mmalign.objectives.preference import PairSettings
from mmalign.rng import generator
from mmalign.testing.policies import ToyAdapter, ToyReward, toy_rows
from mmalign.types import Row


def moved(model: Any, by: float = 0.05) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(by)


@pytest.mark.parametrize("lora", [False, True])
def test_a_snapshot_is_the_policy_as_it_was(lora: bool) -> None:
    adapter = ToyAdapter()
    model: Any = adapter.load("toy:1")
    if lora:
        model = adapter.attach_lora(model, r=2, alpha=4, target_modules="all-linear", seed=0)
        moved(model, 0.02)
    batch = adapter.collate(toy_rows(4))
    snapshot, before = Snapshot(model), adapter.logp(model, batch).values.detach()
    assert len(snapshot.values) == sum(p.requires_grad for p in model.parameters())
    moved(model)
    after = adapter.logp(model, batch).values.detach()
    assert torch.equal(SnapshotReference(adapter, model, snapshot).logp(batch), before)
    assert torch.equal(adapter.logp(model, batch).values, after) and not torch.allclose(after, before)


def test_swapping_between_forward_and_backward_leaves_the_gradient_right() -> None:
    adapter = ToyAdapter()
    pairs = [pair_of(row) for row in toy_rows(6)]
    grads = []
    for swapped in (True, False):
        model = adapter.load("toy:1")
        reference: Any = (
            SnapshotReference(adapter, model, Snapshot(model)) if swapped else Reference(adapter, model)
        )
        moved(model)
        pair_objective(adapter, model, reference, PairSettings())(pairs, generator(0, "x")).value.backward()
        grads.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_averages_and_new_takes() -> None:
    adapter = ToyAdapter()
    model = adapter.load("toy:1")
    snapshot, first = Snapshot(model), copy.deepcopy(list(model.parameters()))
    moved(model, 1.0)
    snapshot.average(model, 0.75)
    assert all(torch.allclose(v, f + 0.25, atol=1e-6) for v, f in zip(snapshot.values, first, strict=True))
    snapshot.take(model)
    assert all(torch.equal(v, p) for v, p in zip(snapshot.values, model.parameters(), strict=True))


def test_choices() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.9], [5.0, 7.0, 6.0], [2.0, 2.0, 2.0]])
    assert best_of_each(scores) == [(0, 1), (1, 1), (2, 0)]
    assert top_of_all(scores, 3) == [
        (1, 0),
        (1, 1),
        (1, 2),
    ]  # a prompt that scores high for all crowds out the rest
    assert best_against_worst(scores) == [(0, 1, 0), (1, 1, 0)]  # the tie teaches nothing
    assert best_against_worst(scores, min_gap=0.8) == [(1, 1, 0)]
    drawn = [random_of_each(scores, generator(0, "r", k)) for k in range(30)]
    assert {k for draws in drawn for _, k in draws} == {0, 1, 2}
    assert all([p for p, _ in draws] == [0, 1, 2] for draws in drawn)


def test_global_top_collapses_to_easy_prompts_and_local_best_does_not() -> None:
    rng = generator(0, "scores")
    scores = torch.randn(50, 8, generator=rng) + torch.linspace(-4, 4, 50)[:, None]
    top, local = top_of_all(scores, 50), best_of_each(scores)
    assert len({p for p, _ in local}) == 50 and len({p for p, _ in top}) < 25


def test_length_penalty_decides_choice_and_label_alike() -> None:
    scores, lengths = torch.tensor([[1.0, 1.2]]), torch.tensor([[5, 20]])
    assert best_against_worst(scores) == [(0, 1, 0)]
    assert best_against_worst(penalised(scores, lengths, 0.1, "linear")) == [(0, 0, 1)]
    logs = penalised(scores, lengths, 1.0, "log")
    assert logs[0].tolist() == pytest.approx([1.0 - 1.609438, 1.2 - 2.995732], abs=1e-5)


def test_spin_pairs_leave_out_what_equals_the_data() -> None:
    rows = toy_rows(2)
    drawn = [[replace(rows[0], completion=rows[0].completion), replace(rows[0], completion="a .")], [rows[1]]]
    items = data_items(rows, drawn)
    assert [(item.answer.completion, item.other.completion) for item in items if item.other] == [
        (rows[0].completion, "a .")
    ]
    assert [item.answer.completion for item in data_items(rows, None)] == [row.completion for row in rows]


class Longer:
    """Likes the longer answer, and whatever stands first."""

    def compare(self, row: Row, first: str, second: str) -> float:
        return min(1.0, max(0.0, 0.6 + 0.1 * (len(first) - len(second))))


def drawing(adapter: Any, chunk: int = 8) -> Drawing:
    return Drawing(adapter, 0, 1.0, 6, chunk)


def test_judged_scores_are_mean_wins_and_sum_to_a_half_each() -> None:
    adapter = ToyAdapter()
    rollouts = draw(drawing(adapter), adapter.load("toy:1"), toy_rows(5), 3, ("a",))
    labels = JudgeLabels(OrderSwapped(Longer()))
    scores = labels.scores(rollouts, 3)
    assert torch.allclose(scores.sum(1), torch.full((5,), 1.5), atol=1e-6)
    lengths = torch.tensor([len(row.completion) for r in rollouts for row in r.rows]).view(5, 3)
    for line, long in zip(scores.tolist(), lengths.tolist(), strict=True):
        assert line.index(max(line)) == long.index(max(long)) or len(set(long)) < 3
    mine, other = labels.preference(rollouts, rollouts[::-1]), labels.preference(rollouts[::-1], rollouts)
    assert torch.allclose(mine + other, torch.ones_like(mine))  # P(a > b) + P(b > a) = 1 after the swap


def test_reward_labels_are_totals_and_their_sigmoid() -> None:
    adapter = ToyAdapter()
    rollouts = draw(drawing(adapter), adapter.load("toy:1"), toy_rows(5), 2, ("a",))
    labels = RewardLabels(ToyReward())
    scores = labels.scores(rollouts, 2)
    whole = torch.cat([ToyReward()(rollout).per_step.sum(1) for rollout in rollouts])
    assert torch.equal(scores.flatten(), whole)
    assert torch.allclose(labels.preference(rollouts, rollouts), torch.full((10,), 0.5))


def test_the_policy_judges_with_its_likelihood() -> None:
    adapter = ToyAdapter()
    model = adapter.load("toy:1")
    judge = PolicyComparer(adapter, model, "{first} {second}", ("a", "b"))
    row = replace(toy_rows(1)[0], prompt="d")
    p = judge.compare(row, "c .", "d .")
    asked = [replace(row, prompt="c . d .", completion=word, steps=None) for word in ("a", "b")]
    first = adapter.logp(model, adapter.collate(asked)).values[:, 0].exp().detach()
    assert p == pytest.approx(float(first[0] / first.sum()), abs=1e-6)
    moved(model, 0.3)
    assert judge.compare(row, "c .", "d .") != pytest.approx(p, abs=1e-4)  # the policy as it is now
    with pytest.raises(UserError, match="start with the same step"):
        PolicyComparer(adapter, model, "{first} {second}", ("a b", "a c")).compare(row, "c .", "d .")
    with pytest.raises(UserError, match="expected {second}"):
        PolicyComparer(adapter, model, "{first}", ("a", "b"))


def test_what_an_answer_holds_is_not_read_as_a_template() -> None:
    class Echo(ToyAdapter):
        seen: Any = None

        def collate(self, rows: Sequence[Row]) -> Any:
            Echo.seen = rows[0].prompt
            return super().collate([replace(row, prompt="a") for row in rows])

    adapter = Echo()
    judge = PolicyComparer(adapter, adapter.load("toy:1"), "{prompt}|{first}|{second}", ("a", "b"))
    judge.compare(replace(toy_rows(1)[0], prompt="q"), "{second}", "{prompt}")
    assert Echo.seen == "q|{second}|{prompt}"
    talk = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "q"}]}]
    judge.compare(replace(toy_rows(1)[0], prompt=talk), "x", "y")
    assert Echo.seen == [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "q|x|y"}]}]


def test_resampled_answers_follow_the_geometric_mixture() -> None:
    """First words of one prompt, 2,000 draws, against the mixture of whole answers computed over all one-step answers."""
    adapter = ToyAdapter()
    model = adapter.load("toy:1")
    snapshot = Snapshot(model)
    moved(model, 0.15)
    row = toy_rows(1)[0]
    how = Drawing(adapter, 0, 1.0, 1, 1)
    mixed, effective = draw_mixture(how, model, snapshot, [row], 2000, 0.5, ("m",))
    every = [replace(row, completion="x", steps=[k]) for k in range(12)]
    now = sequence_logps(adapter, model, every, 12)
    with snapshot.installed(model):
        then = sequence_logps(adapter, model, every, 12)
    wanted = torch.softmax(0.5 * now + 0.5 * then, 0)
    seen = torch.bincount(torch.tensor([row.steps[0] for row in mixed[0].rows]), minlength=12) / 2000
    assert 0.5 * float((seen - wanted).abs().sum()) < 0.05 < 0.5 * float((now.exp() - wanted).abs().sum())
    assert 0.3 < effective <= 1.0


class Counting:
    """A reward with a state: how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def state_dict(self) -> dict[str, int]:
        return {"asked": self.asked}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.asked = state["asked"]


def test_a_round_collected_again_starts_from_the_rewards_state_at_its_beginning() -> None:
    reward = Counting()
    memory = RewardMemory(reward)
    for _ in range(2):  # two rounds of five answers
        memory.begin(resumed=False)
        reward.asked += 5
    saved = memory.state_dict()
    again = Counting()
    resumed = RewardMemory(again)
    resumed.load_state_dict(saved)
    assert again.asked == 10
    resumed.begin(resumed=True)
    assert again.asked == 5  # as before the second round
    again.asked += 5
    resumed.begin(resumed=False)
    assert again.asked == 10 and resumed.state_dict() == {"before": {"asked": 10}, "now": {"asked": 10}}
    assert RewardMemory(None).state_dict() == {"before": {}, "now": {}}
