from __future__ import annotations

import torch

from mmalign.protocols import Conditioned, Likelihood, Samples, Shows, Tunes
from mmalign.rng import generator
from mmalign.testing.policies import ToyAdapter, ToyReward, toy_answer, toy_rows


def test_toy_offers_every_capability() -> None:
    adapter = ToyAdapter()
    for capability in (Likelihood, Samples, Conditioned, Tunes, Shows):
        assert isinstance(adapter, capability)


def test_segments_cover_the_text_and_the_steps() -> None:
    adapter = ToyAdapter()
    rollout = adapter.sample(adapter.load("toy:1"), toy_rows(8), 2, generator(0), max_steps=12)
    for row in rollout.rows:
        for segment in row.segments:
            assert row.completion[segment.char_start : segment.char_end] == segment.text
            assert segment.end - segment.start == len(segment.text.split())
        ends = [0, *(segment.end for segment in row.segments)]
        assert [segment.start for segment in row.segments] == ends[:-1]


def test_sft_learns_the_right_answers_and_the_reward_says_so() -> None:
    adapter, rows = ToyAdapter(), toy_rows(64)
    model = adapter.load("toy:0").train()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    batch = adapter.collate(rows)
    for _ in range(60):
        scored = adapter.logp(model, batch)
        loss = -scored.values.sum() / scored.mask.sum()
        optimizer.zero_grad(), loss.backward(), optimizer.step()
    rollout = adapter.sample(model, rows, 1, generator(0), temperature=0.0, max_steps=12)
    right = [row.completion == toy_answer(row) for row in rollout.rows]
    assert sum(right) / len(right) > 0.95
    assert ToyReward()(rollout).per_step.sum(-1).mean() > 1.8
    assert bool(rollout.finished.all())


def test_lora_off_is_the_reference() -> None:
    adapter, rows = ToyAdapter(), toy_rows(4)
    base = adapter.load("toy:0")
    before = adapter.logp(base, adapter.collate(rows)).values
    model = adapter.attach_lora(base, r=2, alpha=4, target_modules="all-linear", seed=0)
    assert torch.equal(adapter.logp(model, adapter.collate(rows)).values, before)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.add_(0.3)
    assert not torch.allclose(adapter.logp(model, adapter.collate(rows)).values, before)
    with model.disable_adapter():
        assert torch.equal(adapter.logp(model, adapter.collate(rows)).values, before)
