"""The embedded default: a small LLaVA (CLIP tower, Llama decoder) with a word-level tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mmalign.worlds.scenes.scene import CELL, SIDE
from mmalign.worlds.scenes.words import vocabulary

if TYPE_CHECKING:
    from transformers import (
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

__all__ = [
    "BASE",
    "BASE1",
    "IMAGE_TOKENS",
    "PIXEL_MEAN",
    "PIXEL_STD",
    "make_model",
    "make_processor",
    "word_ids",
]

BASE = Path(__file__).parent / "base"
"""Folder of the shipped starting model (pre-training seed 0)."""
BASE1 = Path(__file__).parent / "base1"
"""Folder of the second shipped starting model (pre-training seed 1)."""
IMAGE_TOKENS = (SIDE // CELL) ** 2
"""Image tokens per picture: one per grid cell."""
PIXEL_MEAN, PIXEL_STD = 0.3, 0.25
"""Normalisation of pixel values in 0..1, the same for the three channels."""
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %} {{ message['role'] }} :"
    "{% if message['content'] is string %} {{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %} <image>{% elif part['type'] == 'text' %} {{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{% if message['role'] == 'assistant' %} {{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} assistant :{% endif %}"
)


def word_ids() -> dict[str, int]:
    """Token id of every special token and word."""
    return {word: i for i, word in enumerate((*SPECIAL, *vocabulary()))}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """The word-level tokenizer: words stand between spaces, every sentence ends in the token ``.``."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.WordLevel(word_ids(), unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
        clean_up_tokenization_spaces=False,
        model_max_length=256,
        padding_side="left",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_processor() -> LlavaProcessor:
    """Tokenizer and image processor together, with the chat template."""
    from transformers import CLIPImageProcessor, LlavaProcessor

    images = CLIPImageProcessor(
        size={"height": SIDE, "width": SIDE},
        do_center_crop=False,
        image_mean=[PIXEL_MEAN] * 3,
        image_std=[PIXEL_STD] * 3,
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=make_tokenizer(),
        patch_size=CELL,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def make_model(
    seed: int, *, width: int = 128, vision_layers: int = 3, text_layers: int = 4, init_std: float = 0.06
) -> LlavaForConditionalGeneration:
    """A randomly initialised model: about 1.5 M parameters at the default sizes."""
    import torch
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
    )

    torch.manual_seed(seed)
    ids = word_ids()
    vision = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=vision_layers,
        num_attention_heads=width // 32,
        image_size=SIDE,
        patch_size=CELL,
        projection_dim=width,
    )
    text = LlamaConfig(
        vocab_size=len(ids),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=text_layers,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 32,
        max_position_embeddings=256,
        pad_token_id=ids["<pad>"],
        bos_token_id=ids["<s>"],
        eos_token_id=ids["</s>"],
        tie_word_embeddings=False,
        initializer_range=init_std,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=ids["<image>"],
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=IMAGE_TOKENS,
        tie_word_embeddings=False,
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config.pad_token_id = ids["<pad>"]
    model.generation_config.bos_token_id = ids["<s>"]
    model.generation_config.eos_token_id = ids["</s>"]
    return model
