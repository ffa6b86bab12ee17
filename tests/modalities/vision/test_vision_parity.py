"""Batching never changes a number: padding, image sizes, several images, no image."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mmalign.modalities.tokens import head
from mmalign.modalities.vision import VisionAdapter
from mmalign.protocols import Conditioned, Likelihood, Samples, Shows, Tunes
from mmalign.types import LogP, Row

TOLERANCE = 1e-5


def reference(loaded: Any, row: Row) -> torch.Tensor:
    """Log-probs of one row from the owner library's whole forward, no padding, all logits."""
    batch = loaded.adapter.collate([row])
    inputs = {name: value for name, value in batch.inputs.items() if name != "start"}
    logits = loaded.model(**inputs).logits.float()
    logits[..., loaded.adapter._forbidden] = float("-inf")
    start, steps = int(batch.inputs["start"][0]), batch.mask.shape[1]
    tokens = inputs["input_ids"][0, start : start + steps]
    return torch.log_softmax(logits[0, start - 1 : start + steps - 1], -1).gather(-1, tokens[:, None])[:, 0]


def scored(loaded: Any, rows: list[Row], **options: Any) -> LogP:
    with torch.no_grad():
        return loaded.adapter.logp(loaded.model, loaded.adapter.collate(rows), **options)


@pytest.mark.parametrize("side", ["left", "right"])
def test_batch_equals_single_rows_of_the_owner_library(loaded: Any, rows: list[Row], side: Any) -> None:
    with torch.no_grad():
        singles = [reference(loaded, row) for row in rows]
    loaded.adapter.padding_side = side
    out = scored(loaded, rows)
    assert out.mask.sum(1).tolist() == [len(single) for single in singles]
    for values, single in zip(out.values, singles, strict=True):
        torch.testing.assert_close(values[: len(single)], single, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("side", ["left", "right"])
def test_hidden_states_and_entropy_do_not_depend_on_the_batch(
    loaded: Any, rows: list[Row], side: Any
) -> None:
    loaded.adapter.padding_side = side
    together = scored(loaded, rows, hidden=True, entropy=True)
    assert together.hidden is not None and together.entropy is not None
    for index, row in enumerate(rows):
        alone = scored(loaded, [row], hidden=True, entropy=True)
        assert alone.hidden is not None and alone.entropy is not None
        steps = alone.mask.shape[1]
        torch.testing.assert_close(together.hidden[index, : steps + 1], alone.hidden[0], atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(together.entropy[index, :steps], alone.entropy[0], atol=TOLERANCE, rtol=0)


def test_order_of_rows_does_not_matter(loaded: Any, rows: list[Row]) -> None:
    forwards, backwards = scored(loaded, rows).values, scored(loaded, rows[::-1]).values
    torch.testing.assert_close(forwards, backwards.flip(0), atol=TOLERANCE, rtol=0)


def test_hidden_before_first_and_after_last_step(llava: Any, llava_rows: list[Row]) -> None:
    row = llava_rows[0]
    batch = llava.adapter.collate([row])
    out = scored(llava, [row], hidden=True)
    inputs = {name: value for name, value in batch.inputs.items() if name != "start"}
    with torch.no_grad():
        states = llava.model(**inputs, output_hidden_states=True).hidden_states[-1][0]
    assert out.hidden is not None
    torch.testing.assert_close(
        out.hidden[0], states[int(batch.inputs["start"][0]) - 1 :], atol=1e-5, rtol=1e-5
    )


def test_chunked_head_gives_the_same_values_and_gradients(
    llava: Any, llava_rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gradients() -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        llava.model.zero_grad()
        out = llava.adapter.logp(llava.model, llava.adapter.collate(llava_rows), entropy=True)
        (out.values.sum() + 0.1 * out.entropy.sum()).backward()
        return (
            out.values.detach(),
            out.entropy.detach(),
            [p.grad.clone() for p in llava.model.parameters() if p.grad is not None],
        )

    whole = gradients()
    monkeypatch.setattr(head, "_HEAD_CHUNK", 2000)
    chunked = gradients()
    torch.testing.assert_close(chunked[0], whole[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(chunked[1], whole[1], atol=1e-6, rtol=0)
    torch.testing.assert_close(chunked[2], whole[2], atol=1e-5, rtol=1e-5)


def test_gradient_reaches_language_model_and_tower(loaded: Any, rows: list[Row]) -> None:
    loaded.adapter.logp(loaded.model, loaded.adapter.collate(rows)).values.sum().backward()
    named = {name: p.grad for name, p in loaded.model.named_parameters() if p.grad is not None}
    moved = {name for name, grad in named.items() if float(grad.abs().max()) > 0}
    assert any(
        ".q_proj." in name and ("language_model" in name or "text_model.layers" in name) for name in moved
    )
    assert any("vision" in name or "visual" in name for name in moved)


def test_frozen_tower_gets_no_gradient(loaded: Any, rows: list[Row]) -> None:
    for name, parameter in loaded.model.named_parameters():
        parameter.requires_grad_(not ("vision" in name or "visual" in name))
    loaded.adapter.logp(loaded.model, loaded.adapter.collate(rows)).values.sum().backward()
    assert all(p.grad is None for n, p in loaded.model.named_parameters() if "vision" in n or "visual" in n)
    assert any(p.grad is not None for p in loaded.model.parameters())


def test_blank_images_move_the_score_and_keep_their_size(loaded: Any, rows: list[Row]) -> None:
    shown = [row for row in rows if row.media]
    blanks = [loaded.adapter.blank(row) for row in shown]
    before, after = scored(loaded, shown), scored(loaded, blanks)
    assert torch.equal(before.mask, after.mask)
    moved = ((before.values - after.values).abs() * before.mask).amax(1)
    assert bool((moved > 1e-3).all()), moved


def test_blind_model_does_not_notice_blank_images(loaded: Any, rows: list[Row]) -> None:
    from vision_rows import zero_image_features

    zero_image_features(loaded.model)
    shown = [row for row in rows if row.media]
    before = scored(loaded, shown)
    after = scored(loaded, [loaded.adapter.blank(row) for row in shown])
    torch.testing.assert_close(before.values, after.values, atol=1e-6, rtol=0)


def test_only_text_in_a_batch(loaded: Any, rows: list[Row]) -> None:
    loaded.adapter.padding_side = "left"
    texts = [row for row in rows if not row.media]
    if loaded.family.text_only:
        longer = Row("longer", "What is it? What is it? A cat?", (), "A dog")
        out = scored(loaded, [*texts, longer])
        alone = scored(loaded, texts)
        torch.testing.assert_close(
            out.values[:1, : alone.mask.shape[1]], alone.values, atol=TOLERANCE, rtol=0
        )
    else:
        assert not texts


def test_steps_are_used_verbatim(llava: Any, llava_rows: list[Row]) -> None:
    from dataclasses import replace

    row = replace(llava_rows[0], steps=[11, 12, 13], completion="something else")
    batch = llava.adapter.collate([row])
    start = int(batch.inputs["start"][0])
    assert batch.inputs["input_ids"][0, start:].tolist() == [11, 12, 13]


def test_prompts_are_processed_once(
    llava: Any, llava_rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    llava.adapter.collate(llava_rows)
    monkeypatch.setattr(llava.adapter._encoder._source, "_processor", None)
    llava.adapter.collate(llava_rows)


def test_prompt_cache_keeps_within_its_bytes(families: Any, llava_rows: list[Row]) -> None:
    adapter = VisionAdapter(cache_bytes=40_000)
    adapter.load(str(families["llava"].folder))
    adapter.collate(llava_rows)
    encoder = adapter._encoder
    assert encoder is not None
    assert encoder._held == sum(entry.nbytes for entry in encoder._cache.values()) <= 40_000


def test_capabilities_and_show(llava: Any, llava_rows: list[Row]) -> None:
    for capability in (Likelihood, Samples, Conditioned, Shows, Tunes):
        assert isinstance(llava.adapter, capability)
    shown = llava.adapter.show(llava_rows[4])
    assert [image[:4] for image in shown["images"]] == [b"\x89PNG"] * 2
    assert shown["text"] == "a dog"
