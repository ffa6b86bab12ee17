"""Log-probs of tuples of codes against the owner library's logits, a plain loop and the law of the delay pattern."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from music_models import BOOKS, CODES, codes, make_rows, model, processor

from mmalign.errors import UserError
from mmalign.modalities.audio import AudioAdapter
from mmalign.modalities.audio.pattern import DelayPattern
from mmalign.rng import generator
from mmalign.testing.conformance import modality_suite
from mmalign.types import Row, Speed


def owner_logits(whole: Any, row: Row, tokens: torch.Tensor) -> torch.Tensor:
    """Logits ``[K, T, V]`` of the whole model for one row's delayed tokens ``[K, T]``."""
    given = processor()(text=[row.prompt], return_tensors="pt")
    start = torch.full((BOOKS, 1), CODES)
    with torch.no_grad():
        out = whole(
            input_ids=given["input_ids"],
            attention_mask=given["attention_mask"],
            decoder_input_ids=torch.cat([start, tokens[:, :-1]], 1),
        )
    return out.logits


def null_logits(whole: Any, tokens: torch.Tensor) -> torch.Tensor:
    start = torch.full((BOOKS, 1), CODES)
    free = whole.get_unconditional_inputs(1)
    with torch.no_grad():
        out = whole(
            encoder_outputs=free.encoder_outputs,
            attention_mask=free.attention_mask,
            decoder_input_ids=torch.cat([start, tokens[:, :-1]], 1),
        )
    return out.logits


@pytest.mark.parametrize("channels", [1, 2])
def test_pattern_is_the_owner_librarys(channels: int) -> None:
    """Layout, start and end of the delay pattern equal ``build_delay_pattern_mask``."""
    pattern, frames = DelayPattern.of(BOOKS, channels, CODES), 9
    answer = torch.tensor(codes(0, frames))
    tokens, valid = pattern.delayed([answer])
    whole = model(channels=channels)
    start = torch.full((BOOKS, 1), CODES)
    _, mask = whole.decoder.build_delay_pattern_mask(start, CODES, max_length=frames + pattern.extra + 1)
    assert torch.equal(mask[:, 1:] == -1, valid[0]) and (mask[:, 0] == CODES).all()
    assert torch.equal((tokens[0] != CODES), valid[0])
    assert torch.equal(pattern.undelayed(tokens)[0], answer)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logp_is_the_sum_over_drawn_codes(music: Any, guidance: float, temperature: float) -> None:
    """Against a numpy loop over the owner library's own logits, guidance included."""
    music.adapter.configure({"guidance_scale": guidance})
    row = make_rows()[0]
    batch = music.adapter.collate([row])
    tokens = batch.inputs["tokens"][0]
    logits = owner_logits(music.model, row, tokens).double()
    if guidance != 1:
        free = null_logits(music.model, tokens).double()
        logits = free + guidance * (logits - free)
    expected, spread = np.zeros(tokens.shape[1]), np.zeros(tokens.shape[1])
    for frame, tuple_ in enumerate(row.steps):
        for book, code in enumerate(tuple_):
            scores = (logits[book, frame + book] / temperature).numpy()
            logp = scores - scores.max() - np.log(np.exp(scores - scores.max()).sum())
            expected[frame + book] += logp[code]
            spread[frame + book] -= (np.exp(logp) * logp).sum()
    with torch.no_grad():
        got = music.adapter.logp(music.model, batch, entropy=True, temperature=temperature)
    assert np.abs(got.values[0].numpy() - expected).max() < 1e-4 * max(1, np.abs(expected).max())
    assert np.abs(got.entropy[0].numpy() - spread).max() < 1e-4 * max(1, spread.max())


def test_special_tokens_carry_nothing(music: Any) -> None:
    """Heads that shift every undrawn place by a large number change neither score, entropy nor gradient."""
    rows = make_rows()[:1]
    batch = music.adapter.collate(rows)
    valid = batch.inputs["valid"]
    assert int(valid.sum()) == len(rows[0].steps) * BOOKS and bool((~valid).any())
    plain = music.adapter.logp(music.model, batch, entropy=True)
    other = dict(batch.inputs) | {"tokens": batch.inputs["tokens"].clone()}
    other["tokens"][..., -1] = torch.where(valid[..., -1], other["tokens"][..., -1], 3)  # nothing follows it
    moved = music.adapter.logp(music.model, replace(batch, inputs=other), entropy=True)
    assert torch.equal(plain.values, moved.values) and torch.equal(plain.entropy, moved.entropy)
    (plain.values.sum()).backward()
    assert music.model.decoder.model.decoder.embed_tokens[0].weight.grad[CODES].abs().sum() > 0, "it is read"
    assert music.model.decoder.lm_heads[0].out_features == CODES, "and cannot be drawn"


def test_entropy_and_compact_head_agree_with_the_plain_path(music_folder: Any) -> None:
    rows, found = make_rows(), []
    for speed in (Speed(), Speed(compact_head=False, cache_towers=False)):
        adapter = AudioAdapter(speed=speed)
        whole = adapter.load(str(music_folder))
        scored = adapter.logp(whole, adapter.collate(rows))
        scored.values.sum().backward()
        grads = {name: p.grad for name, p in whole.named_parameters() if p.grad is not None}
        found.append((scored.values.detach(), grads))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-5)
    assert set(found[0][1]) == set(found[1][1])
    for name, grad in found[0][1].items():
        assert torch.allclose(grad, found[1][1][name], atol=1e-4 * max(1.0, float(grad.abs().max()))), name


def test_conformance(music: Any) -> None:
    ran = modality_suite(music.adapter, make_rows(), music.model)
    assert {"batch", "save", "sampling", "gradient"} <= set(ran)


def test_conformance_under_guidance(music: Any) -> None:
    """Ratios of guided answers are 1: guidance is inside the score."""
    music.adapter.configure({"guidance_scale": 2.5})
    rows = make_rows()
    drawn = music.adapter.sample(music.model, rows, 3, generator(0), temperature=0.8, max_steps=12)
    with torch.no_grad():
        scored = music.adapter.logp(music.model, music.adapter.collate(drawn.rows), temperature=0.8)
        music.adapter.configure({})
        free = music.adapter.logp(music.model, music.adapter.collate(drawn.rows), temperature=0.8)
    assert float((scored.values - drawn.logp).abs().max()) < 1e-5 * float(drawn.logp.abs().max())
    assert float((free.values - drawn.logp).abs()[:9].max()) > 1e-2, "without it the score would be another"


def test_finer_codebooks_may_be_left_out_of_the_action(music: Any) -> None:
    """They are drawn alike, and neither score, entropy nor mask counts them; sampler and scorer agree."""
    rows = [replace(row, completion=None, steps=None) for row in make_rows()]
    whole = music.adapter.sample(music.model, rows, 2, generator(0), max_steps=9)
    music.adapter.configure({"train_codebooks": 2})
    drawn = music.adapter.sample(music.model, rows, 2, generator(0), max_steps=9)
    assert [row.steps for row in drawn.rows] == [row.steps for row in whole.rows]
    with torch.no_grad():
        scored = music.adapter.logp(music.model, music.adapter.collate(drawn.rows), entropy=True)
    assert torch.equal(scored.mask, drawn.mask) and int(drawn.mask[0].sum()) == 6 + 1
    assert float((scored.values - drawn.logp).abs().max()) < 1e-4
    assert torch.equal(drawn.logp[:, 0], whole.logp[:, 0]) and not drawn.logp[:, 7:].any()
    assert scored.entropy[:, 7:].sum() == 0 and bool((scored.entropy[:, :7] > 0).all())
    tokens = music.adapter.collate(drawn.rows).inputs["tokens"]
    assert (tokens != CODES).sum() == 8 * 6 * BOOKS, "the model reads all of them"


def test_lora_on_cross_attention_leaves_the_null_branch_alone(music: Any) -> None:
    """Bit for bit, so that guidance keeps its anchor while the captioned branch trains."""
    names = ",".join(f"encoder_attn.{part}_proj" for part in "qkv") + ",encoder_attn.out_proj"
    tuned = music.adapter.attach_lora(music.model, r=2, alpha=4, target_modules=names, seed=0)
    free, said = Row("n", "", steps=codes(0, 6)), Row("c", "bright piano", steps=codes(0, 6))

    def score(row: Row) -> torch.Tensor:
        return music.adapter.logp(tuned, music.adapter.collate([row])).values

    before = [score(row).detach() for row in (free, said)]
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    after = [score(row) for row in (free, said)]
    assert torch.equal(after[0], before[0]) and not torch.allclose(after[1], before[1], atol=1e-3)

    music.adapter.configure({"guidance_scale": 3.0})
    whole = AudioAdapter()  # the same gradient, where the null branch is computed with gradient all the same
    whole.adopt(music.model, processor())
    whole.configure({"guidance_scale": 3.0})
    grads = []
    for trains in (False, True):
        tuned.zero_grad()
        music.model.decoder.model.decoder.layer_norm.requires_grad_(trains)
        score(said).sum().backward()
        grads.append(
            [p.grad.clone() for n, p in tuned.named_parameters() if "lora_A" in n and "encoder_attn" in n]
        )
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (Row("r", "piano", steps=[[1, 2]]), r'row "r": codes must be \[frames, 4\], got \[1, 2\]'),
        (Row("r", "piano", steps=[[1, 2, 3, CODES]]), r'row "r": codes must be 0\.\.31, got 1\.\.32'),
        (Row("r", "piano"), 'row "r": has neither a sound nor codes'),
        (Row("r", 7, steps=codes(0, 2)), 'row "r": the prompt must be a caption, not int'),
        (Row("r", "piano", ("x.wav",), steps=codes(0, 2)), 'row "r": carries 1 media'),
        (Row("r", "piano", completion="no.wav"), 'row "r": sound file "no.wav" does not exist'),
        (
            Row("r", "piano", completion={"a": 1}),
            'row "r": a sound must be a clip, a file or samples, not dict',
        ),
    ],
)
def test_bad_rows_are_named(music: Any, row: Row, message: str) -> None:
    with pytest.raises(UserError, match=message):
        music.adapter.collate([row])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance": 3.0}, 'model.options.guidance: .*did you mean "guidance_scale"'),
        ({"guidance_scale": "3"}, "model.options.guidance_scale: expected a number"),
        ({"frames": 0}, "model.options.frames: expected a whole number of at least 1, got 0"),
        ({"frames": 2, "seconds": 1.0}, "give one"),
    ],
)
def test_bad_options_are_refused(music: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        music.adapter.configure(options)
