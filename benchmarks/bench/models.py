"""Randomly initialised models of real architectures, with real processors, built without a download."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers

__all__ = ["NARROW", "SMALL", "WIDE", "Shape", "llama", "llava", "word_tokenizer"]

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}USER: {% else %}ASSISTANT: {% endif %}"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% else %} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)
PATCH, END = 14, 2


@dataclass(frozen=True, slots=True)
class Shape:
    """Width of the language model and of the CLIP tower, and the vocabulary."""

    hidden: int
    layers: int
    heads: int
    vocab: int
    tower_hidden: int
    tower_layers: int

    @property
    def text(self) -> str:
        """The shape in words."""
        return f"Llama {self.hidden} x {self.layers}, vocabulary {self.vocab}"


NARROW = Shape(256, 6, 4, 32000, 256, 6)
WIDE = Shape(512, 6, 8, 4096, 256, 6)
SMALL = Shape(128, 4, 4, 8000, 128, 4)


def word_tokenizer(vocab: int, pad: str = "<pad>") -> hf.PreTrainedTokenizerFast:
    """A word-level tokenizer whose words are ``w0``, ``w1``, ...; sampled ids of any value decode and encode back."""
    words = ["<unk>", "<s>", "</s>", "<pad>", "<image>", "USER", "ASSISTANT", ":"]
    words += [f"w{k}" for k in range(vocab - len(words))]
    core = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token=pad,
        additional_special_tokens=["<image>"],
        chat_template=TEMPLATE,
        model_max_length=4096,
    )


def llama(shape: Shape, *, endless: bool = False, pad: str = "<pad>", seed: int = 0) -> tuple[Any, Any]:
    """A causal language model and its tokenizer; ``endless``: it never ends an answer by itself."""
    tokenizer = word_tokenizer(shape.vocab, pad)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = hf.LlamaForCausalLM(_text(shape))
    if endless:
        _never_say(model, END)
    return _ready(model), tokenizer


def llava(
    shape: Shape, image_tokens: int, *, endless: bool = False, pad: str = "<pad>", seed: int = 0
) -> tuple[Any, Any]:
    """A LLaVA model whose images take ``image_tokens`` positions (a square number), and its processor.

    The image placeholder gets a logit of -10000.  Our vision adapter gives placeholders probability zero, TRL does
    not: on an untrained model that shows in the numbers (1e-4 of the probability), on a trained one it does not.
    ``endless``: the model never ends an answer by itself either.
    """
    side = round(image_tokens**0.5)
    if side * side != image_tokens:
        raise ValueError(f"image_tokens must be a square number, got {image_tokens}")
    tokenizer, pixels = word_tokenizer(shape.vocab, pad), side * PATCH
    tower = hf.CLIPVisionConfig(
        hidden_size=shape.tower_hidden,
        intermediate_size=4 * shape.tower_hidden,
        num_hidden_layers=shape.tower_layers,
        num_attention_heads=4,
        image_size=pixels,
        patch_size=PATCH,
    )
    image_id: Any = tokenizer.convert_tokens_to_ids("<image>")
    config = hf.LlavaConfig(
        vision_config=tower,
        text_config=_text(shape),
        image_token_index=image_id,
        image_seq_length=image_tokens,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = hf.LlavaForConditionalGeneration(config)
    _never_say(model, model.config.image_token_id, *([END] if endless else []))
    crop = {"height": pixels, "width": pixels}
    processor = hf.LlavaProcessor(
        hf.CLIPImageProcessor(size={"shortest_edge": pixels}, crop_size=crop),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    return _ready(model), processor


def _text(shape: Shape) -> hf.LlamaConfig:
    return hf.LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=int(2.75 * shape.hidden),
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=4096,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
    )


def _never_say(model: Any, *tokens: int) -> None:
    bias = torch.zeros(model.lm_head.out_features)
    bias[list(tokens)] = -1e4
    model.lm_head.bias = torch.nn.Parameter(bias, requires_grad=False)


def _ready(model: Any) -> Any:
    model.generation_config = hf.GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=3)
    return model.eval()
