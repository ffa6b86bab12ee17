"""Every short cut gives the numbers and gradients of the plain path, for every family."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
import torch

from mmalign.engine.reference import Reference
from mmalign.modalities.tokens import head
from mmalign.modalities.tokens.packing import pack_batch
from mmalign.modalities.vision import attach_lora
from mmalign.rng import generator
from mmalign.types import LogP, Row, Speed

PLAIN = Speed(share_prefix=False, pack=False, cache_towers=False, compact_head=False, merge_lora=False)
SWITCHES = {
    "share_prefix": replace(PLAIN, share_prefix=True),
    "pack": replace(PLAIN, pack=True),
    "cache_towers": replace(PLAIN, cache_towers=True),
    "compact_head": replace(PLAIN, compact_head=True),
    "all": Speed(),
}
UNSHAREABLE = ("paligemma",)


def groups(rows: list[Row]) -> list[Row]:
    """Two or three answers of different lengths to every prompt, out of order; one of a single token."""
    answers = ("a dog", "there is a red circle . the circle is left of the blue square .", None)
    many = []
    for place, row in enumerate(rows):
        for number, answer in enumerate(answers[: 2 + place % 2]):
            steps = [5] if answer is None else None
            many.append(replace(row, id=f"{row.id}#{number}", completion=answer or "x", steps=steps))
    return many[::2] + many[1::2]


def stirred(loaded: Any, train: str) -> torch.nn.Module:
    if train == "full":
        for name, parameter in loaded.model.named_parameters():
            parameter.requires_grad_("vision" not in name and "visual" not in name)
        return loaded.model
    model = attach_lora(loaded.model, r=4, alpha=8, seed=1)
    rng = generator(0, "stir")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0.0, 0.05, generator=rng)
    return model


def scored(
    loaded: Any, model: torch.nn.Module, rows: list[Row], speed: Speed
) -> tuple[LogP, list[torch.Tensor]]:
    loaded.adapter.speed = speed
    model.zero_grad()
    out = loaded.adapter.logp(model, loaded.adapter.collate(rows), hidden=True)
    weights = torch.linspace(-1.0, 1.0, out.values.numel()).view_as(out.values)
    (out.values * weights * out.mask).sum().backward()
    return out, [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("train", ["lora", "full"])
@pytest.mark.parametrize("switch", SWITCHES)
def test_switch_keeps_values_and_gradients(loaded: Any, rows: list[Row], switch: str, train: str) -> None:
    model, many = stirred(loaded, train), groups(rows)
    plain, expected = scored(loaded, model, many, PLAIN)
    fast, got = scored(loaded, model, many, SWITCHES[switch])
    assert torch.equal(plain.mask, fast.mask)
    assert plain.hidden is not None and fast.hidden is not None
    torch.testing.assert_close(fast.values, plain.values, atol=1e-5, rtol=1e-5)
    real = torch.cat([plain.mask.new_ones((len(many), 1)), plain.mask], dim=1)
    torch.testing.assert_close(fast.hidden[real], plain.hidden[real], atol=3e-5, rtol=1e-5)
    total = torch.cat([g.flatten() for g in expected]).norm()
    gap = torch.cat([(a - b).flatten() for a, b in zip(got, expected, strict=True)]).norm()
    assert float(gap / total) < 1e-5
    if SWITCHES[switch].share_prefix or SWITCHES[switch].pack:
        assert bool(loaded.adapter.sharing.reason) == (loaded.family.name in UNSHAREABLE)


def test_prompt_and_picture_are_computed_once(llava: Any, llava_rows: list[Row]) -> None:
    many = groups(llava_rows)
    for parameter in llava.model.parameters():
        parameter.requires_grad_(False)
    batch = llava.adapter.collate(many)
    answers = int(batch.mask.sum())
    prompts = {id(p): len(p.ids) for p in (llava.adapter._prompt(row) for row in many)}
    assert batch.inputs["packed"].ids.shape == (1, answers + sum(prompts.values()))
    llava.adapter.logp(llava.model, batch)
    pictures = sum(len(row.media) for row in llava_rows)
    assert llava.adapter.towers.misses == pictures
    reference = Reference(llava.adapter, llava.model, "copy")
    reference.logp(llava.adapter.collate(many))
    assert llava.adapter.towers.misses == pictures, "the reference's tower has the same weights"


def test_tower_cache_follows_weights_and_training(llava: Any, llava_rows: list[Row]) -> None:
    adapter, model = llava.adapter, llava.model
    batch = adapter.collate(llava_rows)
    with torch.no_grad():
        adapter.logp(model, batch)
        assert adapter.towers.misses == 0, "a tower that could train is never served from the cache"
        tower = model.base_model.vision_tower.requires_grad_(False)
        before = adapter.logp(model, batch).values
        held = adapter.towers.misses
        assert held > 0 and adapter.towers.hits == 0
        assert torch.equal(adapter.logp(model, batch).values, before)
        assert adapter.towers.hits == held
        next(p for p in tower.parameters() if p.ndim > 1).mul_(1.5)
        assert not torch.equal(adapter.logp(model, batch).values, before)
        assert adapter.towers.misses == 2 * held
    tuned = attach_lora(
        model, r=2, alpha=4, target_modules=["vision_tower.encoder.layers.0.self_attn.q_proj", "q_proj"]
    )
    seen = adapter.towers.misses + adapter.towers.hits
    adapter.logp(tuned, batch)
    with tuned.disable_adapter():
        adapter.logp(tuned, batch)
    assert adapter.towers.misses + adapter.towers.hits == seen, "a tower with an adapter is never cached"


def test_tower_cache_keeps_within_its_bytes(llava: Any, llava_rows: list[Row]) -> None:
    llava.model.requires_grad_(False)
    llava.adapter.towers.max_bytes = 1
    with torch.no_grad():
        expected = llava.adapter.logp(llava.model, llava.adapter.collate(llava_rows)).values
        assert len(llava.adapter.towers._known) == 1
        again = llava.adapter.logp(llava.model, llava.adapter.collate(llava_rows)).values
    assert torch.equal(expected, again)


def test_model_that_cannot_share_says_so(families: Any, caplog: pytest.LogCaptureFixture) -> None:
    from vision_rows import load, make_rows

    loaded = load(families["paligemma"])
    many = groups(make_rows(loaded.family))
    with caplog.at_level(logging.WARNING, logger="mmalign"):
        scored(loaded, loaded.model, many, Speed())
        scored(loaded, loaded.model, many, Speed())
    assert len(caplog.records) == 1
    assert "does not share prompts" in caplog.text and "padded forward" in caplog.text


def test_wrong_sharing_is_found_on_the_first_batch(
    llava: Any, llava_rows: list[Row], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mmalign.modalities.tokens import packing

    monkeypatch.setattr(
        packing,
        "_mask",
        lambda packed, prefix, answers, device: torch.ones(
            sum(answers), prefix + sum(answers), dtype=torch.bool
        ),
    )
    many = groups(llava_rows)
    plain, _ = scored(llava, llava.model, many, PLAIN)
    fast, _ = scored(llava, llava.model, many, Speed())
    assert "differed" in caplog.text
    torch.testing.assert_close(fast.values, plain.values, atol=1e-6, rtol=1e-6)


def test_long_answers_attend_one_by_one(
    llava: Any, llava_rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmalign.modalities.tokens import packing

    many = groups(llava_rows)
    monkeypatch.setattr(packing, "_JOINT", 0)
    short = [
        replace(row, prompt="What?", media=(), steps=[*range(5, 45), place])
        for place, row in enumerate(many[:3], 5)
    ]
    expected, _ = scored(llava, llava.model, short, PLAIN)
    got, _ = scored(llava, llava.model, short, Speed())
    torch.testing.assert_close(got.values, expected.values, atol=1e-5, rtol=1e-5)


def test_packed_layout() -> None:
    from mmalign.modalities.tokens.encoding import EncodedPrompt

    one, two = EncodedPrompt(torch.tensor([7, 8, 9])), EncodedPrompt(torch.tensor([4]))
    packed, mask = pack_batch([one, two, one], [[1, 2], [3], [5]])
    assert packed.ids.tolist() == [[7, 8, 9, 1, 2, 5, 4, 3]]
    assert packed.groups == ((3, (2, 1)), (1, (1,)))
    assert packed.before.tolist() == [[2, 3, 4], [6, 7, 0], [2, 5, 0]]
    assert mask.tolist() == [[True, True], [True, False], [True, False]]
    assert packed.rows() == ([one, two, one], [[1, 2], [3], [5]])


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("kept", [0, 2**24])
def test_compact_head_gradients(
    llava: Any, trained: bool, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "_COMPACT_CHUNK", 1000)
    monkeypatch.setattr(head, "_KEPT", kept)
    model = llava.model.double()
    model.get_output_embeddings().weight.requires_grad_(trained)
    rng = generator(1, "head")
    states = torch.randn(7, 48, generator=rng, dtype=torch.float64)
    tokens = torch.randint(5, 300, (7,), generator=rng)
    weights = torch.randn(7, generator=rng)
    found = []
    for compact in (True, False):
        model.zero_grad()
        leaf = states.clone().requires_grad_(True)
        values, _ = head.step_logp(
            model, leaf, tokens, temperature=0.7, forbidden=torch.tensor([3]), entropy=False, compact=compact
        )
        (values * weights).sum().backward()
        grad = model.get_output_embeddings().weight.grad
        found.append((values.detach(), leaf.grad, grad if grad is not None else torch.zeros(1)))
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)
