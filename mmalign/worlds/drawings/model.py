"""The parts of the embedded pipeline, made from sizes: tokenizer, text encoder, transformer, scheduler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmalign.worlds.drawings.prompts import MAX_WORDS, WORDS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from mmalign.worlds.drawings.pipeline import DrawingPipeline

__all__ = ["CONTEXT", "make_pipeline", "make_tokenizer", "word_ids"]

CONTEXT = MAX_WORDS + 2
"""Prompt tokens: the longest prompt between its begin and end tokens."""


def word_ids() -> dict[str, int]:
    """Token id of every special token and word; the end token has the highest, where CLIP's pooling looks for it."""
    return {word: i for i, word in enumerate(("<pad>", "<s>", "<unk>", *WORDS, "</s>"))}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """The word-level tokenizer; adds begin and end tokens and pads on the right to ``CONTEXT``."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = word_ids()
    raw = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(name, ids[name]) for name in ("<s>", "</s>")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT,
    )


def make_pipeline(
    seed: int,
    *,
    width: int = 160,
    layers: int = 5,
    text_width: int = 128,
    text_layers: int = 2,
    beta_end: float = 0.015,
) -> DrawingPipeline:
    """A randomly initialised pipeline: about 2.5 M parameters at the default sizes.

    The schedule is DDPM's linear one with ``beta_end`` chosen so that the layout of a picture is decided over several
    of ten steps: patches of 8 pixels average so much noise out that a cosine schedule decides it in two.

    Raises:
        UserError: when diffusers is not installed.
    """
    from mmalign.errors import UserError

    try:
        from diffusers import DDIMScheduler
    except ImportError as error:
        raise UserError('drawings needs diffusers: pip install "mmalign[diffusion]"') from error
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel

    from mmalign.worlds.drawings.pipeline import DrawingPipeline
    from mmalign.worlds.drawings.transformer import DrawingTransformer

    torch.manual_seed(seed)
    ids = word_ids()
    text = CLIPTextConfig(
        vocab_size=len(ids),
        hidden_size=text_width,
        intermediate_size=2 * text_width,
        num_hidden_layers=text_layers,
        num_attention_heads=text_width // 32,
        max_position_embeddings=CONTEXT,
        hidden_act="gelu",
        pad_token_id=ids["<pad>"],
        bos_token_id=ids["<s>"],
        eos_token_id=ids["</s>"],
        initializer_factor=4.0,
    )
    scheduler = DDIMScheduler(
        beta_start=1e-4,
        beta_end=beta_end,
        beta_schedule="linear",
        clip_sample=False,
        set_alpha_to_one=True,
        prediction_type="sample",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
    )
    transformer = DrawingTransformer(width=width, num_layers=layers, cross_attention_dim=text_width)
    return DrawingPipeline(make_tokenizer(), CLIPTextModel(text).eval(), transformer.eval(), scheduler)
