"""A model that ignores its media is stopped; one that looks passes."""

from __future__ import annotations

import pytest
import torch

from mmalign.errors import UserError
from mmalign.guards.modality_used import check_modality_used, measure_modality_use, shuffle_media
from mmalign.testing.policies import ToyAdapter, toy_rows


def test_a_model_that_looks_passes() -> None:
    adapter = ToyAdapter()
    report = check_modality_used(adapter, adapter.load("toy:1"), toy_rows(8))
    assert report.n == 8
    assert report.share_blank == 1.0
    assert report.moved_blank > 0.01


def test_a_blind_model_is_stopped() -> None:
    adapter = ToyAdapter()
    model = adapter.load("toy:1")
    with torch.no_grad():
        model.see.weight.zero_()  # type: ignore[union-attr, operator]
    with pytest.raises(UserError, match="the model ignores its media"):
        check_modality_used(adapter, model, toy_rows(8))
    report = check_modality_used(adapter, model, toy_rows(8), allow_unused=True)
    assert report.share_blank == 0.0


def test_prompts_without_answers_are_answered_first() -> None:
    from dataclasses import replace

    adapter = ToyAdapter()
    rows = [replace(row, completion=None) for row in toy_rows(4)]
    assert measure_modality_use(adapter, adapter.load("toy:1"), rows).n == 4


def test_rows_without_media_are_not_judged() -> None:
    from dataclasses import replace

    adapter = ToyAdapter()
    rows = [replace(row, media=()) for row in toy_rows(4)]
    assert check_modality_used(adapter, adapter.load("toy:1"), rows).n == 0


def test_shuffle_is_a_derangement_within_equal_counts() -> None:
    rows = toy_rows(5)
    shuffled = shuffle_media(rows)
    assert all(a.media[0] is not b.media[0] for a, b in zip(rows, shuffled, strict=True))
    assert {id(r.media[0]) for r in rows} == {id(r.media[0]) for r in shuffled}
