"""Tiny MusicGen models with random weights: real classes, real codecs, a word-level tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from mmalign.data.audio import Clip
from mmalign.types import Row

WORDS = "<pad> </s> <unk> a bright slow piano fast bass dark loud quiet".split()
BOOKS, CODES = 4, 32


def tokenizer() -> hf.PreTrainedTokenizerFast:
    raw = Tokenizer(models.WordLevel({word: k for k, word in enumerate(WORDS)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def codec_config(kind: str) -> Any:
    if kind == "dac":
        return hf.DacConfig(
            encoder_hidden_size=4, decoder_hidden_size=16, downsampling_ratios=[2, 4, 5, 8], n_codebooks=BOOKS,
            codebook_size=CODES, codebook_dim=4, sampling_rate=16_000,
        )  # fmt: skip
    return hf.EncodecConfig(
        target_bandwidths=[BOOKS * 50 * 5 / 1000], sampling_rate=16_000, num_filters=2, hidden_size=8,
        codebook_size=CODES, codebook_dim=8, upsampling_ratios=[8, 5, 4, 2], num_lstm_layers=1, chunk_length_s=None,
    )  # fmt: skip


def model(kind: str = "encodec", channels: int = 1, seed: int = 0) -> hf.MusicgenForConditionalGeneration:
    text = hf.T5Config(
        vocab_size=len(WORDS), d_model=24, d_kv=8, d_ff=32, num_layers=1, num_heads=2, dropout_rate=0.0
    )
    decoder = hf.MusicgenDecoderConfig(
        vocab_size=CODES, num_codebooks=BOOKS, audio_channels=channels, hidden_size=32, num_hidden_layers=2,
        ffn_dim=48, num_attention_heads=2, max_position_embeddings=64, pad_token_id=CODES, bos_token_id=CODES,
        dropout=0.0,
    )  # fmt: skip
    torch.manual_seed(seed)
    config = hf.MusicgenConfig(text_encoder=text, audio_encoder=codec_config(kind), decoder=decoder)
    made = hf.MusicgenForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.startswith(("decoder.", "enc_to_dec")):
                parameter.mul_(6.0)  # far from uniform, so that mistakes show
        if kind == "encodec":
            _fit_codebooks(made.audio_encoder)
    chosen = made.generation_config
    chosen.pad_token_id = chosen.bos_token_id = chosen.decoder_start_token_id = CODES
    return made.eval()


def _fit_codebooks(codec: Any) -> None:
    """Entries from the encoder's own states of noise, so that different sounds have different codes."""
    waves = torch.stack([torch.tensor(sound(k).samples) for k in range(16)])[:, None]
    rest = codec.encoder(waves).transpose(1, 2).flatten(0, 1)
    for layer in codec.quantizer.layers:
        layer.codebook.embed.copy_(rest[torch.randperm(len(rest))[: len(layer.codebook.embed)]])
        rest = rest - layer.decode(layer.encode(rest[None].transpose(1, 2)))[0].t()


def processor() -> hf.MusicgenProcessor:
    return hf.MusicgenProcessor(hf.EncodecFeatureExtractor(sampling_rate=16_000), tokenizer())


def build(folder: Path, kind: str = "encodec") -> Path:
    """Write a model folder as the owner library does."""
    model(kind).save_pretrained(folder)
    processor().save_pretrained(folder)
    return folder


def codes(seed: int, frames: int) -> list[list[int]]:
    return np.random.default_rng(seed).integers(0, CODES, (frames, BOOKS)).tolist()


def sound(seed: int, samples: int = 3200) -> Clip:
    noise = np.random.default_rng(seed).normal(size=samples) * 0.1
    return Clip(noise.astype(np.float32), 16_000)


def make_rows() -> list[Row]:
    """Answers of several lengths, as codes and as sounds; one row without a caption."""
    return [
        Row("codes", "a bright piano", steps=codes(0, 7)),
        Row("short", [{"role": "user", "content": "slow dark bass"}], steps=codes(1, 3)),
        Row("sound", "fast loud piano", completion=sound(2)),
        Row("free", "", steps=codes(3, 5)),
    ]
