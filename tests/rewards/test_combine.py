"""Combinators keep sums, placement and state."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmalign.errors import UserError
from mmalign.rewards.combine import AtEnd, Clip, RunningNorm, WeightedSum, add_kl, at_end
from mmalign.rewards.rules import ExactMatch, Length, RegexMatch
from mmalign.rewards.terms import FactBonus, LengthTerm, Malformed, SegmentBonus, TooShort, Unfinished
from mmalign.types import Rollout, StepReward
from tests.rewards.build import rollout

ANSWERS = [[("a cat .", 3), ("xx .", 2)], [("a dog .", 3)], []]


class Fixed:
    """A reward given in advance."""

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values

    def __call__(self, batch: Rollout) -> StepReward:
        values = self.values * batch.mask
        return StepReward(values, {"half": values / 2, "rest": values - values / 2})


def random_reward(batch: Rollout, seed: int = 0) -> Fixed:
    return Fixed(torch.randn(batch.mask.shape, generator=torch.Generator().manual_seed(seed)))


def test_weighted_sum_names_and_adds_parts() -> None:
    batch = rollout(ANSWERS)
    one, two = random_reward(batch, 1), Unfinished(1.0)
    total = WeightedSum({"a": one, "b": two}, {"a": 0.5})(batch)
    assert set(total.parts) == {"a/half", "a/rest", "b"}
    assert torch.allclose(total.per_step, 0.5 * one(batch).per_step, atol=1e-6)
    with pytest.raises(UserError, match="name no reward"):
        WeightedSum({"a": one}, {"c": 1.0})


def test_kl_term_costs_when_the_policy_has_left_the_reference() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, ref = torch.randn(2, 400, 20, generator=generator), torch.randn(2, 400, 20, generator=generator)
    logp, logp_ref = logits.log_softmax(-1), ref.log_softmax(-1)
    steps = torch.distributions.Categorical(logits=logits).sample()
    mine, theirs = (x.gather(-1, steps[..., None])[..., 0] for x in (logp, logp_ref))
    mask = torch.arange(400)[None] < torch.tensor([[400], [300]])
    nothing = StepReward(torch.zeros(2, 400), {"none": torch.zeros(2, 400)})
    for estimator in ("k1", "k3"):
        reward = add_kl(nothing, mine, theirs, mask, 0.1, estimator)  # type: ignore[arg-type]
        assert reward.per_step[mask].mean() < 0
        assert not reward.per_step[~mask].any()
        exact = (logp.exp() * (logp - logp_ref)).sum(-1)[mask].mean()
        assert reward.per_step[mask].mean() / -0.1 == pytest.approx(exact, rel=0.25)
    with pytest.raises(UserError, match="kl_coef"):
        add_kl(nothing, mine, theirs, mask, -0.1)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), limit=st.floats(0.1, 3))
def test_every_combinator_keeps_sums_and_padding(seed: int, limit: float) -> None:
    batch = rollout(ANSWERS)
    inner = random_reward(batch, seed)
    raw = inner(batch)
    for reward in (AtEnd(inner), Clip(inner, limit), RunningNorm(inner), AtEnd(Clip(inner, limit))):
        value = reward(batch)
        assert torch.allclose(sum(value.parts.values()), value.per_step, atol=1e-5)  # type: ignore[arg-type]
        assert not value.per_step[~batch.mask].any()
    assert torch.allclose(AtEnd(inner)(batch).per_step.sum(1), raw.per_step.sum(1), atol=1e-5)
    assert Clip(inner, limit)(batch).per_step.abs().max() <= limit + 1e-6


def test_running_norm_divides_only_and_resumes() -> None:
    batch = rollout(ANSWERS)
    dense = RunningNorm(random_reward(batch, 3))
    sparse = RunningNorm(AtEnd(random_reward(batch, 3)))
    first, end = dense(batch), sparse(batch)
    assert dense.std == pytest.approx(float(dense.inner(batch).per_step.sum(1).std()), rel=1e-5)
    assert torch.allclose(at_end(first, batch.mask).per_step, end.per_step, atol=1e-5)
    raw = dense.inner(batch).per_step
    assert torch.equal(first.per_step == 0, raw == 0)
    other = RunningNorm(random_reward(batch, 3))
    other.load_state_dict(json.loads(json.dumps(dense.state_dict())))
    assert torch.equal(other(batch).per_step, dense(batch).per_step)
    dense.frozen = True
    count = dense.count
    dense(batch)
    assert dense.count == count


def test_state_travels_through_nested_rewards() -> None:
    batch = rollout(ANSWERS)
    tree = WeightedSum({"a": Clip(RunningNorm(random_reward(batch, 1)), 5.0), "b": Unfinished()})
    tree(batch)
    again = WeightedSum({"a": Clip(RunningNorm(random_reward(batch, 1)), 5.0), "b": Unfinished()})
    again.load_state_dict(tree.state_dict())
    assert torch.equal(again(batch).per_step, tree(batch).per_step)


def test_shape_terms() -> None:
    batch = rollout(ANSWERS, finished=[True, False, True])
    assert Unfinished(0.5)(batch).per_step.nonzero().tolist() == [[1, 3]]
    assert TooShort(2, 1.0)(batch).per_step.sum(1).tolist() == [0.0, -1.0, -1.0]
    bad = Malformed(lambda text: "xx" not in text, 0.3)(batch).per_step
    assert bad.nonzero().tolist() == [[0, 4]]
    bonus = SegmentBonus(0.8, lambda text: "xx" not in text)(batch).per_step
    assert bonus.sum(1).tolist() == pytest.approx([0.8, 0.8, 0.0])
    assert LengthTerm(-0.1)(batch).per_step.sum(1).tolist() == pytest.approx([-0.6, -0.4, -0.1])
    assert LengthTerm(1.0, target=2, unit="segments")(batch).per_step.sum(1).tolist() == [0.0, -1.0, -2.0]
    with pytest.raises(UserError, match="extractor"):
        SegmentBonus({"object": 1.0})


def test_bonus_per_type_takes_the_last_type_named() -> None:
    class Reader:
        def extract(self, text: str) -> list[list[object]]:
            from mmalign.feedback.facts import Fact

            facts = [Fact("object", ("cat",))] if "cat" in text else []
            return [[*facts, *([Fact("relation", ("left",))] if "left" in text else [])]]

    batch = rollout([[("cat .", 2), ("cat left .", 2), ("cat again .", 2), ("hm .", 2)]])
    bonus = SegmentBonus({"object": 0.8, "relation": 0.6}, extractor=Reader())(batch).per_step
    assert bonus[0, [1, 3, 5, 7]].tolist() == pytest.approx([0.8, 0.6, 0.0, 0.0])


def test_an_answer_without_steps_gets_nothing() -> None:
    batch = rollout([[], [("a .", 2)]], extra=0, finished=[False, False])
    for reward in (Unfinished(), TooShort(3), LengthTerm(1.0), RegexMatch("a"), Length(2, 2)):
        assert not reward(batch).per_step[0].any()


def test_rules() -> None:
    batch = rollout(ANSWERS)
    assert RegexMatch(r"c.t")(batch).per_step.sum(1).tolist() == [1.0, 0.0, 0.0]
    assert Length(4, 2)(batch).per_step.sum(1).tolist() == pytest.approx([0.0, 1.0, 0.0])
    with pytest.raises(UserError, match="regular expression"):
        RegexMatch("(")
    with pytest.raises(UserError, match="label"):
        ExactMatch()(batch)


def test_fact_bonus_pays_each_fact_once() -> None:
    class Words:
        def extract(self, text: str) -> list[list[object]]:
            from mmalign.feedback.facts import Fact

            return [[Fact("attribute", (word,)) for word in text.removesuffix(".").split()]]

    batch = rollout(
        [[("red cat.", 2), ("cat.", 1), ("red blue dog.", 3)], [("cut off", 2)]], finished=[True, False]
    )
    paid = FactBonus(0.5, Words())(batch).per_step
    assert paid[0].nonzero().flatten().tolist() == [1, 5]
    assert paid[0, 1] == pytest.approx(1.0)  # red, cat
    assert paid[0, 5] == pytest.approx(1.0)  # blue, dog; red and cat were said before
