"""Drawing codes: the owner library's greedy answers, streams, lengths, sounds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from music_models import BOOKS, build, codes, make_rows, model, processor, sound

from mmalign.data.audio import Clip
from mmalign.errors import UserError
from mmalign.modalities.audio import AudioAdapter
from mmalign.modalities.audio.codec import HubCodec
from mmalign.modalities.audio.sound import resampled
from mmalign.rng import generator
from mmalign.types import Row, Speed

ROWS = [replace(row, completion=None, steps=None) for row in make_rows()]


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_greedy_equals_generate(channels: int, guidance: float) -> None:
    whole, rows = model(channels=channels), [ROWS[0], replace(ROWS[2], prompt="fast loud dark piano")]
    adapter = AudioAdapter()
    adapter.adopt(whole, processor())
    adapter.configure({"guidance_scale": guidance})
    steps, seen = 14, {}
    decode = whole.audio_encoder.decode

    def watched(ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.setdefault("codes", []).append(ids[0])
        return decode(ids, *args, **kwargs)

    whole.audio_encoder.decode = watched
    given = processor()(text=[row.prompt for row in rows], padding=True, return_tensors="pt")
    inputs = {name: given[name] for name in ("input_ids", "attention_mask")}
    whole.generate(**inputs, do_sample=False, max_new_tokens=steps, guidance_scale=guidance)
    ours = adapter.sample(whole, rows, 1, generator(0), temperature=0.0, max_steps=steps)
    found = torch.tensor([row.steps for row in ours.rows])
    theirs = seen["codes"][0] if channels == 1 else torch.stack(seen["codes"], 2).flatten(1, 2)
    assert torch.equal(found, theirs.transpose(1, 2))
    assert len(found.unique()) > 3, "a constant answer would prove little"


def test_each_row_has_its_own_stream(music: Any) -> None:
    """An answer depends on its own generator, not on its neighbours, batches or short cuts."""
    streams = [generator(1, row.id) for row in ROWS]
    together = music.adapter.sample(music.model, ROWS, 2, streams, max_steps=9)
    for place, row in enumerate(ROWS):
        alone = music.adapter.sample(music.model, [row], 2, [generator(1, row.id)], max_steps=9)
        assert [r.steps for r in alone.rows] == [r.steps for r in together.rows[2 * place : 2 * place + 2]]
    small = AudioAdapter(sample_batch=1, speed=Speed(cache_towers=False, merge_lora=False))
    small.adopt(music.model, processor())
    again = small.sample(music.model, ROWS, 2, [generator(1, row.id) for row in ROWS], max_steps=9)
    assert [r.steps for r in again.rows] == [r.steps for r in together.rows]
    assert len({repr(r.steps) for r in together.rows}) == len(together.rows)


def test_frequencies_are_the_models(music: Any) -> None:
    """First-step codes of many samples follow the scored distribution, guided and at a temperature."""
    music.adapter.configure({"guidance_scale": 2.0, "frames": 1})
    many = music.adapter.sample(music.model, ROWS[:1], 3000, generator(4), temperature=0.9, max_steps=8)
    first = torch.tensor([row.steps[0][0] for row in many.rows])
    counts = torch.bincount(first, minlength=32).double() / len(first)
    rows = [replace(ROWS[0], steps=[[code, 0, 0, 0]]) for code in range(32)]
    with torch.no_grad():
        scored = music.adapter.logp(music.model, music.adapter.collate(rows), temperature=0.9)
    exact = scored.values[:, 0].exp().double()
    assert float(exact.sum()) == pytest.approx(1.0, abs=1e-5)
    error = (exact * (1 - exact) / len(first)).sqrt()
    assert float(((counts - exact).abs() / error.clamp(min=1e-3)).max()) < 4.5


@pytest.mark.parametrize(
    ("options", "frames", "finished"),
    [({}, 7, True), ({"frames": 5}, 5, True), ({"frames": 50}, 7, False), ({"seconds": 0.06}, 3, True)],
)
def test_length(music: Any, options: dict[str, Any], frames: int, finished: bool) -> None:
    music.adapter.configure(options)
    drawn = music.adapter.sample(music.model, ROWS, 1, generator(0), max_steps=7 + BOOKS - 1)
    assert {len(row.steps) for row in drawn.rows} == {frames}
    assert drawn.mask.shape[1] == frames + BOOKS - 1 and bool(drawn.mask.all())
    assert drawn.finished.tolist() == [finished] * len(ROWS)


def test_nothing_to_sample(music: Any) -> None:
    with pytest.raises(UserError, match="max_steps=3; a piece takes more than 3 steps"):
        music.adapter.sample(music.model, ROWS, 1, generator(0), max_steps=3)


def test_merged_lora_draws_the_same(music: Any) -> None:
    tuned = music.adapter.attach_lora(music.model, r=2, alpha=4, target_modules="all-linear", seed=0)
    names = [name for name, _ in tuned.named_modules() if name.endswith("lora_A")]
    assert names and all(".decoder.model.decoder.layers." in name for name in names)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
    merged = music.adapter.sample(tuned, ROWS, 2, generator(0), max_steps=9)
    plain = AudioAdapter(speed=Speed(merge_lora=False))
    plain.adopt(tuned, processor())
    apart = plain.sample(tuned, ROWS, 2, generator(0), max_steps=9)
    assert [r.steps for r in merged.rows] == [r.steps for r in apart.rows]
    with torch.no_grad():
        scored = music.adapter.logp(tuned, music.adapter.collate(merged.rows))
    assert float((scored.values - merged.logp).abs().max()) < 1e-4


@pytest.mark.parametrize("kind", ["encodec", "dac"])
def test_codecs(kind: str, tmp_path: Path) -> None:
    """Codes decode to a sound of their length, which is written as a WAV file that reads back."""
    whole = model(kind)
    codec = HubCodec(whole.audio_encoder, BOOKS)
    found = codec.encode(sound(0).samples)
    assert found.shape[1] == BOOKS and abs(len(found) - 10) <= 1 and codec.frame_rate == 50
    adapter = AudioAdapter()
    adapter.adopt(whole, processor())
    row = Row("r", "bright piano", steps=codes(0, 10))
    clip = adapter.sample(whole, [row], 1, generator(0), max_steps=13).rows[0].completion
    assert clip.rate == 16_000 and abs(len(clip.samples) - 3200) <= 40
    read = Clip.load(clip.save_as(tmp_path / "piece"))
    assert np.abs(read.samples - np.clip(clip.samples, -1, 1)).max() < 1e-4
    shown = adapter.show(replace(row, completion=clip))
    assert shown["text"] == "bright piano"
    assert shown["audio"][0][:4] == b"RIFF" and shown["images"][0][1:4] == b"PNG"
    with pytest.raises(UserError, match="has 4 codebooks but the policy draws 6"):
        HubCodec(whole.audio_encoder, 6)


def test_sounds_are_read_in_every_form(music: Any, tmp_path: Path) -> None:
    """A clip, its file, bare samples and another rate give the same codes (a file has 16 bits, a filter its edges)."""
    clip = sound(5)
    forms = [clip, str(clip.save_as(tmp_path / "a")), clip.samples, np.stack([clip.samples] * 2, 1)]
    found = [music.adapter.collate([Row("r", "piano", completion=form)]).inputs["tokens"] for form in forms]
    assert torch.equal(found[0], found[2]) and torch.equal(found[0], found[3])
    assert (found[0] == found[1]).float().mean() > 0.9
    other = resampled(clip, 24_000)
    assert len(other.samples) == 4800
    again = music.adapter.collate([Row("r", "piano", completion=other)])
    assert again.inputs["tokens"].shape == found[0].shape


def test_saved_models_load_in_the_owner_library(music: Any, tmp_path: Path) -> None:
    """Whole, and with LoRA merged; an unmerged adapter folder loads through its base."""
    import transformers as hf

    row = make_rows()[0]
    tuned = music.adapter.attach_lora(music.model, r=2, alpha=4, target_modules="all-linear", seed=0)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
        expected = music.adapter.logp(tuned, music.adapter.collate([row])).values
        music.adapter.save(tuned, tmp_path / "merged", merge=True)
        music.adapter.save(tuned, tmp_path / "adapter")
        theirs = hf.MusicgenForConditionalGeneration.from_pretrained(tmp_path / "merged").eval()
        adapter = AudioAdapter()
        adapter.adopt(theirs, hf.AutoProcessor.from_pretrained(tmp_path / "merged"))
        assert torch.allclose(adapter.logp(theirs, adapter.collate([row])).values, expected, atol=1e-4)
        for folder in ("merged", "adapter"):
            again = AudioAdapter()
            whole = again.load(str(tmp_path / folder))
            assert torch.allclose(again.logp(whole, again.collate([row])).values, expected, atol=1e-4)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    assert not (tmp_path / "adapter" / "model.safetensors").exists()


def test_other_models_are_refused(tmp_path: Path) -> None:
    import transformers as hf

    hf.GPT2Config(n_embd=8, n_head=1, n_layer=1).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(UserError, match='is not a text-to-music model: its type is "gpt2"'):
        AudioAdapter().load(str(tmp_path / "gpt2"))
    build(tmp_path / "lost")
    from safetensors.torch import load_file, save_file

    weights = load_file(tmp_path / "lost" / "model.safetensors")
    del weights["decoder.lm_heads.1.weight"]
    save_file(weights, tmp_path / "lost" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="weights are missing"):
        AudioAdapter().load(str(tmp_path / "lost"))
