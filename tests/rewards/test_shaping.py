"""Segment scores become step rewards without loss, without double pay and never on padding."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmalign.errors import UserError
from mmalign.rewards.placing import last_steps, place
from mmalign.rewards.shaping import LENGTH_MODES, TYPES, Shaping, shape
from mmalign.types import Rollout, Row, Segment
from tests.rewards.build import rollout

ANSWERS = [[("a cat .", 3), ("it is red .", 4), ("left of it .", 2)], [("a dog .", 3)]]
SCORES = [
    [
        {"object": 1.0, "attribute": None, "relation": None},
        {"object": None, "attribute": -1.0, "relation": None},
        {"object": 0.5, "attribute": None, "relation": 0.25},
    ],
    [{"object": -1.0}],
]


def test_values_stand_on_the_last_step_of_each_segment() -> None:
    reward = shape(
        rollout(ANSWERS), SCORES, Shaping(weights={"object": 2.0, "attribute": 1.0, "relation": 1.0})
    )
    expected = torch.zeros_like(reward.per_step)
    expected[0, 2], expected[0, 6], expected[0, 8], expected[1, 2] = 2.0, -1.0, 1.25, -2.0
    assert torch.equal(reward.per_step, expected)
    assert set(reward.parts) == {*TYPES, "repeat"}


@pytest.mark.parametrize("length", LENGTH_MODES)
def test_a_type_that_does_not_apply_gets_exactly_zero(length: str) -> None:
    shaping = Shaping(length=length, baseline=dict.fromkeys(TYPES, 0.3))  # type: ignore[arg-type]
    scores = [[dict.fromkeys(TYPES) for _ in row] for row in ANSWERS]
    reward = shape(rollout(ANSWERS), scores, shaping)
    assert all(bool((part == 0).all()) for part in reward.parts.values())


def test_length_modes() -> None:
    def total(length: str, scores: list[float]) -> float:
        answer = [(f"s{k} .", 2) for k in range(len(scores))]
        shaping = Shaping(weights={"object": 1.0}, length=length, baseline={"object": 0.5})  # type: ignore[arg-type]
        return float(shape(rollout([answer]), [[{"object": s} for s in scores]], shaping).per_step.sum())

    assert total("reference", [1.0] * 4) == 4.0 > total("reference", [1.0])
    assert total("errors", [1.0] * 4) == 0.0 == total("errors", [1.0])
    assert total("errors", [1.0, -1.0]) == -1.0
    assert total("mean", [1.0] * 4) == 1.0 == total("mean", [1.0])
    assert total("centred", [0.5] * 4) == 0.0 == total("centred", [0.5])
    assert total("centred", [1.0, -1.0]) == -1.0


def test_dense_and_sequence_placement_pay_the_same_total() -> None:
    batch = rollout(ANSWERS)
    dense = shape(batch, SCORES, Shaping())
    sparse = shape(batch, SCORES, Shaping(placement="sequence"))
    assert torch.allclose(dense.per_step.sum(1), sparse.per_step.sum(1))
    assert sparse.per_step.nonzero().tolist() == [[0, 9], [1, 3]]
    for name, part in dense.parts.items():
        assert torch.allclose(part.sum(1), sparse.parts[name].sum(1))


def test_a_repeated_segment_earns_nothing_and_pays() -> None:
    batch = rollout([[("A cat.", 2), ("a  cat .", 2), ("a dog.", 2)]])
    reward = shape(batch, [[{"object": 1.0}] * 3], Shaping(repeat_penalty=0.25))
    assert reward.per_step[0, [1, 3, 5]].tolist() == [1.0, -0.25, 1.0]


def test_a_repetition_in_other_words_is_found_by_its_facts() -> None:
    batch = rollout([[("a red cat .", 2), ("the cat is red .", 2), ("cat left of dog .", 2)]])
    cat, red, left = ("object", "cat"), ("attribute", "red cat"), ("relation", "cat left dog")
    facts = [[frozenset({cat, red}), frozenset({cat, red}), frozenset({cat, left})]]
    reward = shape(batch, [[{"object": 1.0}] * 3], Shaping(), facts)
    assert reward.per_step[0, [1, 3, 5]].tolist() == [1.0, -0.5, 1.0]


def test_a_cut_off_last_segment_gets_nothing() -> None:
    answers = [[("a cat .", 3), ("a red", 2)], [("a cat .", 3), ("a dog .", 2)]]
    batch = rollout(answers, finished=[False, False], extra=0)
    reward = shape(batch, [[{"object": 1.0}] * 2] * 2, Shaping())
    assert reward.per_step.sum(1).tolist() == [1.0, 2.0]


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(UserError, match=r"reference"):
        Shaping(length="referense")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"baseline"):
        Shaping(length="centred")
    with pytest.raises(UserError, match=r"placement"):
        Shaping(placement="end")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"r1.*1 segments but 0 scores"):
        shape(rollout(ANSWERS), [SCORES[0], []], Shaping())
    with pytest.raises(ValueError, match="padding"):
        place(torch.tensor([[True, False]]), [(0, 1, 1.0)])
    bad = Row("x", "p", segments=(Segment(0, 3, "a"),))
    one = torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="row 'x', segment 0"):
        shape(Rollout((bad,), one.float(), one, one[:, 0], torch.zeros(1)), [[{}]], Shaping())


spans = st.lists(st.tuples(st.text(min_size=1, max_size=8), st.integers(1, 5)), max_size=6)


@settings(max_examples=80, deadline=None)
@given(
    answers=st.lists(spans, min_size=1, max_size=4),
    extra=st.integers(1, 3),
    done=st.booleans(),
    mode=st.sampled_from(LENGTH_MODES),
    data=st.data(),
)
def test_nothing_is_lost_or_paid_twice(
    answers: list[list[tuple[str, int]]], extra: int, done: bool, mode: str, data: st.DataObject
) -> None:
    batch = rollout(answers, extra=extra, finished=[done] * len(answers))
    value = st.none() | st.floats(-1, 1, width=32)
    scores = [[{kind: data.draw(value) for kind in TYPES} for _ in row] for row in answers]
    shaping = Shaping(length=mode, baseline=dict.fromkeys(TYPES, 0.2))  # type: ignore[arg-type]
    dense = shape(batch, scores, shaping)
    sparse = shape(batch, scores, Shaping(length=mode, baseline=shaping.baseline, placement="sequence"))  # type: ignore[arg-type]
    assert not dense.per_step[~batch.mask].any() and not sparse.per_step[~batch.mask].any()
    assert torch.allclose(dense.per_step.sum(1), sparse.per_step.sum(1), atol=1e-4)
    assert torch.allclose(sum(dense.parts.values()), dense.per_step, atol=1e-5)  # type: ignore[arg-type]
    ends = {(b, s.end - 1) for b, row in enumerate(batch.rows) for s in row.segments}
    assert set(map(tuple, dense.per_step.nonzero().tolist())) <= ends
    lasts = last_steps(batch.mask)
    assert all(t == lasts[b] for b, t in sparse.per_step.nonzero().tolist())
