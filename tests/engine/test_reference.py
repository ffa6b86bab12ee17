"""The reference: a frozen copy, the adapter switched off, or numbers kept on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mmalign.engine.reference import CachedReference, Reference, cached_reference, row_key, weights_hash
from mmalign.errors import UserError
from mmalign.testing.policies import ToyAdapter, toy_rows
from mmalign.types import Row


def test_copy_stays_where_the_policy_started() -> None:
    adapter = ToyAdapter()
    model = adapter.load("toy:1")
    reference = Reference(adapter, model)
    batch = adapter.collate(toy_rows(4))
    before = reference.logp(batch)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    assert reference.how == "copy"
    assert torch.equal(reference.logp(batch), before)
    assert not torch.allclose(adapter.logp(model, batch).values, before)


def test_adapter_off_is_the_model_without_its_lora() -> None:
    adapter = ToyAdapter()
    model = adapter.load("toy:1")
    batch = adapter.collate(toy_rows(4))
    start = adapter.logp(model, batch).values.detach().clone()
    tuned = adapter.attach_lora(model, r=2, alpha=4, target_modules="all-linear", seed=0)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
    reference = Reference(adapter, tuned)
    assert reference.how == "adapter_off"
    assert torch.equal(reference.logp(batch), start)
    assert not torch.allclose(adapter.logp(tuned, batch).values, start)


def test_what_does_not_exist_is_refused() -> None:
    adapter = ToyAdapter()
    with pytest.raises(UserError, match="adapter_off needs a LoRA"):
        Reference(adapter, adapter.load("toy:1"), "adapter_off")
    with pytest.raises(UserError, match="does not serve freshly sampled answers"):
        Reference(adapter, adapter.load("toy:1"), "cache")


def test_cached_numbers_are_computed_once_per_content_and_weights(tmp_path: Path) -> None:
    adapter = ToyAdapter()
    model = adapter.load("toy:1")
    asked: list[str] = []

    def compute(rows: Sequence[Row]) -> list[torch.Tensor]:
        asked.extend(row.id for row in rows)
        scored = adapter.logp(model, adapter.collate(rows))
        return [v[m].detach() for v, m in zip(scored.values, scored.mask, strict=True)]

    rows = toy_rows(3)
    batch = adapter.collate(rows)
    first = CachedReference(tmp_path, "a" * 64, compute).logp(batch)
    again = CachedReference(tmp_path, "a" * 64, compute).logp(adapter.collate([*rows, rows[0]]))
    assert len(asked) == 3
    assert torch.equal(first, again[:3])
    CachedReference(tmp_path, "b" * 64, compute).logp(adapter.collate(rows[:1]))
    assert len(asked) == 4, "other weights never read these numbers"
    other = replace(rows[0], completion=rows[1].completion + " a .")
    assert row_key(other) != row_key(rows[0])


def test_the_cache_equals_the_copy_and_stays_there(tmp_path: Path) -> None:
    adapter = ToyAdapter()
    model = adapter.load("toy:1")
    rows = toy_rows(5)
    copy, cache = Reference(adapter, model), cached_reference(tmp_path, adapter, model)
    assert cache.precompute(rows, 2) == 5
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    batch = adapter.collate(rows[1:4])
    assert torch.allclose(cache.logp(batch), copy.logp(batch) * batch.mask, atol=1e-6)
    with pytest.raises(UserError, match="no cached reference"):
        cache.logp(adapter.collate([replace(rows[0], completion="a .")]))
    assert cached_reference(tmp_path, adapter, model).precompute(rows, 8) == 5, "moved weights, other numbers"


def test_the_hash_sees_one_weight() -> None:
    adapter = ToyAdapter()
    model = adapter.load("toy:1")
    before = weights_hash(model)
    assert weights_hash(adapter.load("toy:1")) == before != weights_hash(adapter.load("toy:2"))
    with torch.no_grad():
        next(iter(model.parameters())).view(-1)[0].add_(1e-3)
    assert weights_hash(model) != before
