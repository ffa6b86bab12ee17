"""Sounds in, text out: a tiny Qwen2-Audio along the vision adapter's route."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from music_models import sound
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from mmalign.data.audio import Clip
from mmalign.data.rows import read_rows
from mmalign.errors import UserError
from mmalign.guards.modality_used import check_modality_used
from mmalign.modalities.audio import AudioTextAdapter
from mmalign.testing.conformance import modality_suite
from mmalign.types import Row, Speed

SPECIAL = ["<pad>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]


def tokenizer() -> hf.PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(
        ["system user assistant You are a helpful assistant. What is it? a bell"], trainer
    )
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="<|im_end|>",
        additional_special_tokens=SPECIAL[3:],
    )


def build(folder: Path) -> Path:
    """A Qwen2-Audio of two layers that hears up to a second."""
    words = tokenizer()
    audio = hf.Qwen2AudioEncoderConfig(
        num_mel_bins=8, d_model=16, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=24,
        max_source_positions=50,
    )  # fmt: skip
    text = hf.Qwen2Config(
        vocab_size=len(words), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=512, bos_token_id=None, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = hf.Qwen2AudioForConditionalGeneration(
        hf.Qwen2AudioConfig(audio_config=audio, text_config=text, audio_token_index=3)
    )
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 0
    model.save_pretrained(folder)
    extractor = hf.WhisperFeatureExtractor(
        feature_size=8, sampling_rate=16_000, chunk_length=1, n_fft=400, hop_length=160
    )
    hf.Qwen2AudioProcessor(extractor, words).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("hears"))


@pytest.fixture
def hearing(folder: Path) -> tuple[AudioTextAdapter, Any]:
    adapter = AudioTextAdapter()
    return adapter, adapter.load(str(folder))


def make_rows(folder: Path) -> list[Row]:
    """Clips, files and samples of several lengths and rates; two sounds; none."""
    folder.mkdir(exist_ok=True)
    parts = [{"type": "audio"}, {"type": "text", "text": "and then"}, {"type": "audio"}]
    other = Clip(sound(3, 3000).samples, 8_000)
    return [
        Row("clip", "What is it?", (sound(0, 3200),), "a bell"),
        Row("file", "What is it?", (str(sound(1, 5000).save_as(folder / "b")),), "it is a bell, I am sure"),
        Row("samples", "What?", (sound(2, 2000).samples,), "What"),
        Row(
            "two",
            [{"role": "user", "content": parts}],
            (sound(0, 3200), other),
            "You are a helpful assistant.",
        ),
        Row("none", "What is it?", (), "a bell"),
    ]


def test_conformance(hearing: Any, tmp_path: Path) -> None:
    adapter, model = hearing
    ran = modality_suite(adapter, make_rows(tmp_path), model)
    assert {"batch", "save", "sampling", "blank"} <= set(ran)


def test_logits_are_the_owner_librarys(hearing: Any, folder: Path, tmp_path: Path) -> None:
    """Against one unpadded forward of the whole model on the processor's own output."""
    adapter, model = hearing
    processor = hf.AutoProcessor.from_pretrained(folder)
    for row in make_rows(tmp_path)[:3]:
        chat = [{"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": row.prompt}]}]
        text = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        media = row.media[0]
        heard = (
            media
            if isinstance(media, np.ndarray)
            else (media if isinstance(media, Clip) else Clip.load(Path(media))).samples
        )
        given = processor(text=[text], audio=[heard], sampling_rate=16_000, return_tensors="pt")
        answer = [*processor.tokenizer(row.completion)["input_ids"], 2]
        ids = torch.cat([given["input_ids"], torch.tensor([answer])], 1)
        inputs = {name: given[name] for name in ("input_features", "feature_attention_mask")}
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **inputs).logits
            got = adapter.logp(model, adapter.collate([row]))
        logits[..., 3] = -torch.inf  # an answer that holds a placeholder could not be read back
        before = slice(given["input_ids"].shape[1] - 1, -1)
        expected = torch.log_softmax(logits[0, before], -1).gather(-1, torch.tensor(answer)[:, None])[:, 0]
        assert torch.allclose(got.values[0], expected, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_side_and_short_cuts_change_nothing(folder: Path, tmp_path: Path, side: Any) -> None:
    rows = make_rows(tmp_path)
    found = []
    for speed in (Speed(), Speed(share_prefix=False, pack=False, cache_towers=False, compact_head=False)):
        adapter = AudioTextAdapter(padding_side=side, speed=speed)
        model = adapter.load(str(folder))
        for parameter in model.model.audio_tower.parameters():
            parameter.requires_grad_(False)
        batch = adapter.collate([*rows, replace(rows[0], id="again", completion="a helpful bell")])
        found.append(adapter.logp(model, batch).values.detach())
    assert torch.allclose(found[0], found[1], atol=1e-5)


def test_a_deaf_model_is_stopped(hearing: Any, tmp_path: Path) -> None:
    adapter, model = hearing
    rows = [row for row in make_rows(tmp_path) if row.media]
    assert check_modality_used(adapter, model, rows).share_blank == 1.0
    model.model.multi_modal_projector.register_forward_hook(lambda *args: torch.zeros_like(args[-1]))
    with pytest.raises(UserError, match="ignores its media|ignores its evidence"):
        check_modality_used(adapter, model, rows)


def test_placeholders_are_counted(hearing: Any, tmp_path: Path) -> None:
    """Too few placeholders for the sound's length: the row is named, with both numbers."""
    adapter, model = hearing
    row = make_rows(tmp_path)[0]
    adapter.collate([row])
    inner = adapter.processor._process_audio

    def short(audio: Any, **kwargs: Any) -> Any:
        inputs, texts = inner(audio, **kwargs)
        return inputs, [text[: len("<|AUDIO|>")] for text in texts]

    adapter.processor._process_audio = short
    adapter.adopt(model, adapter.processor)
    with pytest.raises(
        UserError, match=r'row "clip": the prompt has 1 audio placeholder token\(s\) but its 1 audio'
    ):
        adapter.collate([row])


def test_rows_of_a_file(hearing: Any, tmp_path: Path) -> None:
    """``audios`` and ``<audio>`` of a JSONL file reach the model."""
    adapter, model = hearing
    sound(0).save_as(tmp_path / "bell")
    lines = [
        {"prompt": "What is it?", "audios": ["bell.wav"], "completion": "a bell"},
        {"prompt": "<audio>What is it?", "audio": "bell.wav", "completion": "a bell"},
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    rows = read_rows(file)
    with torch.no_grad():
        scored = adapter.logp(model, adapter.collate(rows))
    assert torch.allclose(scored.values[0], scored.values[1], atol=1e-6) and len(rows[1].media) == 1
    assert adapter.show(rows[0])["audio"][0][:4] == b"RIFF"


@pytest.mark.parametrize(
    ("media", "message"),
    [
        (("no.wav",), 'row "r": sound file "no.wav" does not exist'),
        ((np.zeros((0,), np.float32),), r'row "r": samples must be \[n\]'),
        ((sound(0), sound(1)), "shows 1 audio"),
    ],
)
def test_bad_sounds_are_named(hearing: Any, media: tuple[Any, ...], message: str) -> None:
    prompt = "What?" if len(media) == 1 else "<|AUDIO|> What?"
    with pytest.raises(UserError, match=message):
        hearing[0].collate([Row("r", prompt, media, "a bell")])


def test_other_models_are_refused(tmp_path: Path) -> None:
    hf.GPT2Config(n_embd=8, n_head=1, n_layer=1).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(UserError, match='is not a model of sounds and text: its type is "gpt2"'):
        AudioTextAdapter().load(str(tmp_path / "gpt2"))
