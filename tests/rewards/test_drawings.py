"""The exact reward of drawings on true, flawed and cheating pictures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from mmalign import registry
from mmalign.errors import UserError
from mmalign.rewards.drawings import DrawingTruth
from mmalign.types import Rollout, Row
from mmalign.worlds import drawings
from mmalign.worlds.drawings.scene import draw, place
from mmalign.worlds.scenes.scene import Scene

LEFT = "a red circle left of a blue square"
RED, BLUE, GREEN = ("red", "circle"), ("blue", "square"), ("green", "cross")


def picture(*objects: tuple[str, str, int]) -> Any:
    return draw(Scene("t", 1, "test", tuple(place(c, s, cell) for c, s, cell in objects)))


def rollout(prompts: list[str], pictures: list[Any], steps: int = 4) -> Rollout:
    rows = tuple(
        Row(id=f"r{i}", prompt=p, completion=c)
        for i, (p, c) in enumerate(zip(prompts, pictures, strict=True))
    )
    mask = torch.ones(len(rows), steps, dtype=torch.bool)
    mask[:, -1] = False
    zeros = torch.zeros(len(rows), steps)
    return Rollout(rows, zeros, mask, torch.ones(len(rows), dtype=torch.bool), torch.arange(len(rows)))


CASES = [
    ([(*RED, 0), (*BLUE, 1)], 0.6 + 0.4 + 1.0),
    ([(*RED, 1), (*BLUE, 0)], 0.6),
    ([(*RED, 0)], 0.6 * 2 / 3),
    ([(*RED, 0), (*BLUE, 1), (*GREEN, 2)], 0.6 * 0.8 + 0.4 - 0.1),
    ([(*RED, 0), (*BLUE, 1), (*RED, 2), (*BLUE, 3)], 0.6 * 4 / 6 + 0.4 - 0.2),
    ([], 0.0),
    ([("blue", "circle", 0), ("red", "square", 1)], -0.2),
]


@pytest.mark.parametrize("detector", ["template", "network", "both"])
def test_what_pictures_earn(detector: str) -> None:
    reward = DrawingTruth(detector)(rollout([LEFT] * len(CASES), [picture(*objects) for objects, _ in CASES]))
    expected = torch.tensor([value for _, value in CASES])
    assert torch.allclose(reward.per_step.sum(1), expected, atol=1e-6)
    assert torch.equal(reward.per_step[:, 2], reward.per_step.sum(1)), "paid on the last real step"
    assert set(reward.parts) == {"objects", "relation", "extra", "exact"}


def test_one_flaw_always_costs() -> None:
    rows = drawings.rows("validation", 60, 1, "preference")
    prompts = [row.prompt for row in rows]
    good, bad = (
        DrawingTruth()(rollout(prompts, [getattr(row, side) for row in rows])).per_step.sum(1)
        for side in ("chosen", "rejected")
    )
    assert torch.allclose(good, torch.full_like(good, 2.0)) and bool((bad <= 1.0 - 1e-6).all())


def test_drawing_everything_does_not_pay() -> None:
    every = picture(*[(*RED, 0), (*BLUE, 1), (*GREEN, 2), ("yellow", "triangle", 3)])
    some = picture((*RED, 0))
    everything, one = DrawingTruth()(rollout(["a red circle"] * 2, [every, some])).per_step.sum(1)
    assert one == 2.0 and everything == pytest.approx(0.4 - 0.3)


def test_leaving_out_what_was_asked_for_does_not_pay() -> None:
    """A stray thing costs less than the object whose absence would avoid it."""
    for prompt in (LEFT, "a red circle and a blue square"):
        whole, part = picture((*RED, 0), (*BLUE, 1), (*GREEN, 2)), picture((*RED, 0))
        stray, alone = DrawingTruth()(rollout([prompt] * 2, [whole, part])).per_step.sum(1)
        assert stray > alone


def test_noise_earns_a_fine_and_options_weigh() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    batch = rollout(["a red circle"], [noise])
    assert DrawingTruth()(batch).per_step.sum() == pytest.approx(-0.4)
    assert DrawingTruth(extra_penalty=0.0)(batch).per_step.sum() == 0
    swapped = rollout([LEFT], [picture((*RED, 1), (*BLUE, 0))])
    assert DrawingTruth(relation_weight=0.0)(swapped).per_step.sum() == pytest.approx(1.0)


def test_errors_name_the_row() -> None:
    batch = rollout(["a red circle", "a red circle"], [picture((*RED, 0)), "no picture"])
    with pytest.raises(UserError, match="row 'r1'"):
        DrawingTruth()(batch)
    foreign = replace(batch, rows=(replace(batch.rows[0], prompt="a cat"),) * 2)
    with pytest.raises(UserError, match='prompt "a cat"'):
        DrawingTruth()(foreign)
    with pytest.raises(UserError, match="template"):
        DrawingTruth("templates")
    with pytest.raises(UserError, match="relation_weight"):
        DrawingTruth(relation_weight=2.0)


def test_it_is_registered() -> None:
    assert registry.load("rewards", "drawings") is DrawingTruth
