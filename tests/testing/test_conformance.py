from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mmalign.rng import generator
from mmalign.testing.conformance import modality_suite, reward_suite
from mmalign.testing.policies import ToyAdapter, ToyReward, toy_rows
from mmalign.types import Batch, LogP, Rollout, Row, StepReward


def rows() -> list[Row]:
    made = toy_rows(5, seed=3)
    return [made[0], *(replace(row, completion=row.completion[:5]) for row in made[1:3]), *made[3:]]


def test_the_toy_passes_every_check() -> None:
    adapter = ToyAdapter()
    ran = modality_suite(adapter, rows(), adapter.load("toy:0"))
    assert {"batch", "order", "sampling", "blank", "save"} <= set(ran)


def test_the_toy_with_lora_passes() -> None:
    adapter = ToyAdapter()
    model = adapter.attach_lora(adapter.load("toy:0"), r=2, alpha=2, target_modules="all-linear", seed=0)
    assert "sampling" in modality_suite(adapter, rows(), model)


class LeaksPadding(ToyAdapter):
    def logp(self, model: nn.Module, batch: Batch, *args: Any, **kwargs: Any) -> LogP:
        scored = super().logp(model, batch, *args, **kwargs)
        return replace(scored, values=scored.values - 0.01 * batch.mask.shape[1])


class DropsEnd(ToyAdapter):
    def collate(self, rows: Sequence[Row]) -> Batch:
        return super().collate(
            [replace(r, steps=r.steps[:-1]) if r.steps and len(r.steps) > 1 else r for r in rows]
        )


class NeverLooks(ToyAdapter):
    def collate(self, rows: Sequence[Row]) -> Batch:
        return super().collate(
            [replace(row, media=tuple(np.zeros_like(m) for m in row.media)) for row in rows]
        )


class IgnoresTemperature(ToyAdapter):
    def logp(
        self, model: nn.Module, batch: Batch, rng: Any = None, *, temperature: float = 1.0, **rest: Any
    ) -> LogP:
        return super().logp(model, batch, rng, **rest)


class Detached(ToyAdapter):
    def logp(self, model: nn.Module, batch: Batch, *args: Any, **kwargs: Any) -> LogP:
        scored = super().logp(model, batch, *args, **kwargs)
        return replace(scored, values=scored.values.detach())


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (LeaksPadding, "is padding masked"),
        (DropsEnd, "other steps than were drawn"),
        (NeverLooks, "never looks"),
        (IgnoresTemperature, "ignores its temperature"),
    ],
)
def test_a_broken_adapter_is_told_what_is_wrong(broken: type[ToyAdapter], says: str) -> None:
    adapter = broken()
    with pytest.raises(AssertionError, match=says):
        modality_suite(adapter, rows(), adapter.load("toy:0"))


def test_a_detached_score_is_refused() -> None:
    adapter = Detached()
    with pytest.raises((AssertionError, RuntimeError)):
        modality_suite(adapter, rows(), adapter.load("toy:0"))


def rollout() -> Rollout:
    adapter = ToyAdapter()
    return adapter.sample(adapter.load("toy:0"), toy_rows(4), 2, generator(0), max_steps=8)


def test_the_toy_reward_passes() -> None:
    assert "parts" in reward_suite(ToyReward(), rollout())


def test_a_reward_off_the_mask_is_refused() -> None:
    def everywhere(made: Rollout) -> StepReward:
        ones = torch.ones_like(made.logp)
        return StepReward(ones, {"ones": ones})

    with pytest.raises(AssertionError, match="off the mask"):
        reward_suite(everywhere, rollout())
