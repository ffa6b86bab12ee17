"""The embedded default: a small MusicGen (T5 text encoder, delay-pattern decoder) with a word-level tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mmalign.worlds.tunes.captions import MAX_WORDS, vocabulary
from mmalign.worlds.tunes.codec import CODEBOOKS, CODES, STEPS
from mmalign.worlds.tunes.synth import RATE

if TYPE_CHECKING:
    from transformers import EncodecConfig, MusicgenForConditionalGeneration, PreTrainedTokenizerFast

__all__ = ["BASE", "COLUMNS", "make_model", "make_tokenizer", "word_ids"]

BASE = Path(__file__).parent / "base"
"""Folder of the shipped starting model; ``codec.safetensors`` beside it turns its codes into sound."""
COLUMNS = STEPS + CODEBOOKS
"""Decoder tokens of a piece: the start column, then codebook ``k`` delayed by ``k`` steps."""
SPECIAL = ("<pad>", "</s>", "<unk>")


def word_ids() -> dict[str, int]:
    """Token id of every special token and word."""
    return {word: i for i, word in enumerate((*SPECIAL, *vocabulary()))}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """The word-level tokenizer; ends a caption with ``</s>`` as T5's does and pads on the right."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = word_ids()
    raw = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", ids["</s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_WORDS + 1,
        padding_side="right",
    )


def _codec_slot() -> EncodecConfig:
    """The smallest EnCodec of the right shape: the owner class demands an audio encoder; its weights are never trained.

    What decodes this model's codes is ``codec.safetensors``.
    """
    from transformers import EncodecConfig

    return EncodecConfig(
        sampling_rate=RATE,
        codebook_size=CODES,
        codebook_dim=8,
        hidden_size=8,
        num_filters=2,
        num_residual_layers=1,
        num_lstm_layers=1,
        upsampling_ratios=[10, 8, 4, 4],
        target_bandwidths=[CODEBOOKS * 130 / 1000],
        chunk_length_s=None,
    )


def make_model(
    seed: int,
    *,
    width: int = 128,
    layers: int = 4,
    text_width: int = 64,
    text_layers: int = 2,
    init_std: float = 0.05,
) -> MusicgenForConditionalGeneration:
    """A randomly initialised model: about 1.6 M parameters at the default sizes."""
    import torch
    from transformers import (
        MusicgenConfig,
        MusicgenDecoderConfig,
        MusicgenForConditionalGeneration,
        T5Config,
    )

    torch.manual_seed(seed)
    ids = word_ids()
    text = T5Config(
        vocab_size=len(ids),
        d_model=text_width,
        d_kv=text_width // 4,
        d_ff=2 * text_width,
        num_layers=text_layers,
        num_heads=4,
        dropout_rate=0.0,
        pad_token_id=ids["<pad>"],
        eos_token_id=ids["</s>"],
    )
    decoder = MusicgenDecoderConfig(
        vocab_size=CODES,
        hidden_size=width,
        ffn_dim=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_codebooks=CODEBOOKS,
        max_position_embeddings=64,
        dropout=0.0,
        initializer_factor=init_std,
        pad_token_id=CODES,
        bos_token_id=CODES,
    )
    config = MusicgenConfig(text_encoder=text, audio_encoder=_codec_slot(), decoder=decoder)
    model = MusicgenForConditionalGeneration(config).eval()
    chosen = model.generation_config
    chosen.pad_token_id = chosen.bos_token_id = chosen.decoder_start_token_id = CODES
    chosen.do_sample, chosen.guidance_scale, chosen.max_length = True, None, COLUMNS
    return model
