"""Placing, scaling and clipping step rewards."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmalign.objectives.rewards import (
    RunningMoments,
    clip_rewards,
    normalize_rewards,
    place_at_segments,
    sequence_placement,
    update_moments,
)


def test_place_golden() -> None:
    # segment [0, 3) ends on step 2, [3, 5) on step 4; two segments that end together add up
    placed = place_at_segments([[1.0, -0.5], [2.0, 3.0], []], [[(0, 3), (3, 5)], [(0, 2), (1, 2)], []], 6)
    assert placed.tolist() == [[0, 0, 1.0, 0, -0.5, 0], [0, 5.0, 0, 0, 0, 0], [0] * 6]


def test_place_keeps_dtype_and_gradient() -> None:
    values = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    placed = place_at_segments([values], [[(0, 1), (1, 4)]], 4)
    assert placed.dtype == torch.float64
    (placed * torch.tensor([1.0, 9.0, 9.0, 4.0])).sum().backward()
    assert values.grad is not None and values.grad.tolist() == [1.0, 4.0]


@settings(max_examples=60, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 19), min_size=1, max_size=6, unique=True),
    values=st.lists(st.floats(-5, 5, width=32), min_size=6, max_size=6),
)
def test_identity_15_dense_adds_up_to_holistic(cuts: list[int], values: list[float]) -> None:
    ends = sorted(cuts)
    spans = list(zip([0, *ends[:-1]], ends, strict=True))
    row = values[: len(spans)]
    placed = place_at_segments([row], [spans], 20)
    mask = (torch.arange(20) < ends[-1]).unsqueeze(0)
    assert placed.sum().item() == pytest.approx(sum(row), abs=1e-4)
    moved = sequence_placement(placed, mask)
    assert moved.sum().item() == pytest.approx(sum(row), abs=1e-4)
    assert moved[0, ends[-1] - 1].item() == moved.sum().item()


def test_place_refusals() -> None:
    for span in ((2, 2), (3, 2), (-1, 2), (0, 7)):
        with pytest.raises(ValueError, match="segment 0 of sample 0"):
            place_at_segments([[1.0]], [[span]], 6)
    with pytest.raises(ValueError, match="2 values for 1 segments"):
        place_at_segments([[1.0, 2.0]], [[(0, 1)]], 6)
    with pytest.raises(ValueError, match="1 samples of values but 2"):
        place_at_segments([[1.0]], [[(0, 1)], []], 6)


def test_sequence_placement_golden() -> None:
    # the last REAL step, not the last column; a hole is no end; an empty row stays empty
    rewards = torch.tensor([[1.0, 2.0, 9.0], [1.0, 9.0, 4.0], [9.0, 9.0, 9.0]])
    mask = torch.tensor([[True, True, False], [True, False, True], [False, False, False]])
    assert sequence_placement(rewards, mask).tolist() == [[0, 3.0, 0], [0, 0, 5.0], [0, 0, 0]]
    dirty = rewards.masked_fill(~mask, math.nan)
    assert sequence_placement(dirty, mask).tolist() == [[0, 3.0, 0], [0, 0, 5.0], [0, 0, 0]]
    with pytest.raises(ValueError, match="per_step has shape"):
        sequence_placement(rewards[:, :2], mask)


def test_clip() -> None:
    assert clip_rewards(torch.tensor([[-20.0, 3.0, 20.0]]), 10.0).tolist() == [[-10.0, 3.0, 10.0]]
    assert clip_rewards(torch.tensor([[-20.0]]), math.inf).item() == -20.0
    with pytest.raises(ValueError, match="positive"):
        clip_rewards(torch.zeros(1, 1), 0.0)


def test_running_moments_golden() -> None:
    # 1, 3 then 5: mean 3, squared deviations 4 + 0 + 4, population std sqrt(8/3)
    state = update_moments(
        RunningMoments(), torch.tensor([[1.0, 3.0, 77.0]]), torch.tensor([[True, True, False]])
    )
    assert (state.count, state.mean, state.m2) == (2.0, 2.0, 2.0)
    later = update_moments(state, torch.tensor([[5.0]]), torch.tensor([[True]]))
    assert (later.count, later.mean, later.m2) == pytest.approx((3.0, 3.0, 8.0))
    assert later.std == pytest.approx(math.sqrt(8 / 3))
    assert state.mean == 2.0


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), parts=st.integers(1, 5), shift=st.floats(-1000, 1000))
def test_running_moments_do_not_depend_on_the_split(seed: int, parts: int, shift: float) -> None:
    rewards = torch.randn(10, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift
    mask = torch.rand(10, 3, generator=torch.Generator().manual_seed(seed + 1)) > 0.3
    state = RunningMoments()
    for chunk, chunk_mask in zip(rewards.chunk(parts), mask.chunk(parts), strict=True):
        state = update_moments(state, chunk, chunk_mask)
    seen = rewards[mask]
    assert state.mean == pytest.approx(seen.mean().item(), abs=1e-9)
    assert state.std == pytest.approx(seen.std(correction=0).item(), rel=1e-6)


def test_std_is_one_until_there_is_a_spread() -> None:
    nothing = RunningMoments()
    one = update_moments(nothing, torch.tensor([[4.0]]), torch.tensor([[True]]))
    same = update_moments(one, torch.tensor([[4.0]]), torch.tensor([[True]]))
    assert nothing.std == one.std == same.std == 1.0
    assert update_moments(one, torch.tensor([[9.0]]), torch.tensor([[False]])) is one


def test_running_moments_refuse_nan_and_keep_the_state() -> None:
    state = RunningMoments(2.0, 1.0, 2.0)
    with pytest.raises(ValueError, match="left as they were"):
        update_moments(state, torch.tensor([[math.nan]]), torch.tensor([[True]]))
    assert state == RunningMoments(2.0, 1.0, 2.0)
    hidden = update_moments(state, torch.tensor([[math.nan, 1.0]]), torch.tensor([[False, True]]))
    assert math.isfinite(hidden.mean)


def test_normalize_golden() -> None:
    state = RunningMoments(count=4.0, mean=1.0, m2=16.0)  # std 2
    rewards, mask = torch.tensor([[3.0, 5.0, math.nan]]), torch.tensor([[True, True, False]])
    assert normalize_rewards(rewards, state, mask).tolist()[0] == pytest.approx([1.5, 2.5, 0.0])
    assert normalize_rewards(rewards, state, mask, shift_mean=True).tolist()[0] == pytest.approx(
        [1.0, 2.0, 0.0]
    )


def test_running_moments_merge_golden() -> None:
    # 0, 2 then 5, 9: mean 4, squared deviations 16 + 4 + 1 + 25 = 46 (2 + 8 within, 36 between)
    both = torch.ones(1, 2, dtype=torch.bool)
    state = update_moments(
        update_moments(RunningMoments(), torch.tensor([[0.0, 2.0]]), both), torch.tensor([[5.0, 9.0]]), both
    )
    assert (state.count, state.mean, state.m2) == pytest.approx((4.0, 4.0, 46.0))


def test_normalizer_adds_its_epsilon() -> None:
    tiny = RunningMoments(count=2.0, mean=0.0, m2=2e-16)  # std 1e-8
    scaled = normalize_rewards(
        torch.ones(1, 1, dtype=torch.float64), tiny, torch.ones(1, 1, dtype=torch.bool)
    )
    assert scaled.item() == pytest.approx(0.5e8)
