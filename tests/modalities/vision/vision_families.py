"""Tiny randomly initialised models of real families, with real processors, built without any download."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn

CORPUS = [
    "describe the picture . there is a red circle . the circle is left of the blue square .",
    "What is it? A cat, a dog; and a bird! user assistant system question answer picture image",
]
SPECIAL = {
    "llava": ["<image>"],
    "qwen2_5_vl": ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"],
    "qwen3_vl": ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"],
    "idefics3": ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
    + [f"<row_{row}_col_{col}>" for row in range(1, 7) for col in range(1, 7)],
    "paligemma": ["<image>"],
    "smolvlm": [],
    "internvl": ["<IMG_CONTEXT>", "<img>", "</img>", "<video>"],
}
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}:{% for c in m['content'] %}{% if c['type'] == 'image' %}IMAGE"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% if m['role'] == 'assistant' %}</s>{% endif %}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)
TEXT = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
SPECIAL["smolvlm"] = SPECIAL["idefics3"]


@dataclass(frozen=True)
class Family:
    """What a family can do, beside its folder of weights."""

    name: str
    folder: Path
    several_images: bool = True
    text_only: bool = True


def tokenizer(family: str) -> hf.PreTrainedTokenizerFast:
    """A small byte-level BPE tokenizer with the family's special tokens."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", *SPECIAL[family]]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=380, special_tokens=special, initial_alphabet=sorted(alphabet), show_progress=False
        ),
    )
    extra = {}
    if family == "internvl":
        extra = {
            "extra_special_tokens": {
                "start_image_token": "<img>",
                "end_image_token": "</img>",
                "context_image_token": "<IMG_CONTEXT>",
                "video_token": "<video>",
            }
        }
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=4096,
        **extra,
    )


def _text(tok: hf.PreTrainedTokenizerFast, **changes: object) -> dict[str, object]:
    return {**TEXT, "vocab_size": len(tok), **changes}


def _llava(tok: hf.PreTrainedTokenizerFast) -> tuple[nn.Module, object]:
    image = tok.convert_tokens_to_ids("<image>")
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**vision),
        text_config=hf.LlamaConfig(**_text(tok)),
        image_token_index=image,
        image_seq_length=16,
    )
    size = {"height": 32, "width": 32}
    pictures = hf.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size)
    processor = hf.LlavaProcessor(
        pictures,
        tok,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE.replace("IMAGE", "<image>"),
    )
    return hf.LlavaForConditionalGeneration(config), processor


def _qwen(tok: hf.PreTrainedTokenizerFast, third: bool) -> tuple[nn.Module, object]:
    ids = {
        name: tok.convert_tokens_to_ids(f"<|{name}|>")
        for name in ("image_pad", "video_pad", "vision_start", "vision_end")
    }
    special = {
        "image_token_id": ids["image_pad"],
        "video_token_id": ids["video_pad"],
        "vision_start_token_id": ids["vision_start"],
        "vision_end_token_id": ids["vision_end"],
    }
    rope = {"rope_type": "default", "mrope_section": [2, 2, 2], "rope_theta": 10000.0}
    if third:
        vision = {
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "patch_size": 8,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": 48,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        }
        text = _text(tok, head_dim=12, rope_parameters={**rope, "mrope_interleaved": True})
        config = hf.Qwen3VLConfig(text_config=text, vision_config=vision, **special)
        model: nn.Module = hf.Qwen3VLForConditionalGeneration(config)
    else:
        vision = {
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "patch_size": 8,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": 48,
            "window_size": 32,
            "fullatt_block_indexes": [1],
        }
        config = hf.Qwen2_5_VLConfig(
            text_config=_text(tok, rope_parameters=rope), vision_config=vision, **special
        )
        model = hf.Qwen2_5_VLForConditionalGeneration(config)
    pixels = {
        "patch_size": 8,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "size": {"shortest_edge": 256, "longest_edge": 4096},
    }
    pictures = hf.Qwen2VLImageProcessor(**pixels)
    template = TEMPLATE.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    if third:
        video = hf.Qwen3VLVideoProcessor(**pixels)
        return model, hf.Qwen3VLProcessor(pictures, tok, video, chat_template=template)
    video = hf.Qwen2VLVideoProcessor(**pixels)
    return model, hf.Qwen2_5_VLProcessor(pictures, tok, video, chat_template=template)


def _idefics3(tok: hf.PreTrainedTokenizerFast, *, small: bool = False) -> tuple[nn.Module, object]:
    """Idefics3, or SmolVLM (``small``), which is its descendant with a processor and video of its own."""
    sizes = {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}}
    template = TEMPLATE.replace("IMAGE", "<image>").replace("</s>", "<end_of_utterance>")
    if small:
        processor: object = hf.SmolVLMProcessor(
            hf.SmolVLMImageProcessor(**sizes),
            tok,
            hf.SmolVLMVideoProcessor(**sizes),
            image_seq_len=4,
            chat_template=template,
        )
    else:
        processor = hf.Idefics3Processor(
            hf.Idefics3ImageProcessor(**sizes), tok, image_seq_len=4, chat_template=template
        )
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    config = (hf.SmolVLMConfig if small else hf.Idefics3Config)(
        vision_config=vision,
        text_config=hf.LlamaConfig(**_text(tok)),
        scale_factor=2,
        image_token_id=tok.convert_tokens_to_ids("<image>"),
        pad_token_id=0,
    )
    kind = hf.SmolVLMForConditionalGeneration if small else hf.Idefics3ForConditionalGeneration
    return kind(config), processor


def _paligemma(tok: hf.PreTrainedTokenizerFast) -> tuple[nn.Module, object]:
    pictures = hf.SiglipImageProcessor(size={"height": 32, "width": 32})
    pictures.image_seq_length = 16
    processor = hf.PaliGemmaProcessor(pictures, tok, chat_template=TEMPLATE.replace("IMAGE", "<image>"))
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
        "projection_dim": 48,
        "vision_use_head": False,
    }
    config = hf.PaliGemmaConfig(
        vision_config=hf.SiglipVisionConfig(**vision),
        text_config=hf.GemmaConfig(**_text(tok, head_dim=12)),
        image_token_index=tok.convert_tokens_to_ids("<image>"),
        projection_dim=48,
        hidden_size=48,
    )
    return hf.PaliGemmaForConditionalGeneration(config), processor


def _internvl(tok: hf.PreTrainedTokenizerFast) -> tuple[nn.Module, object]:
    pictures = hf.GotOcr2ImageProcessor(size={"height": 32, "width": 32}, crop_to_patches=True, max_patches=4)
    video = hf.InternVLVideoProcessor(size={"height": 32, "width": 32})
    processor = hf.InternVLProcessor(
        pictures, tok, video, image_seq_length=4, chat_template=TEMPLATE.replace("IMAGE", "<IMG_CONTEXT>")
    )
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": [32, 32],
        "patch_size": [8, 8],
    }
    config = hf.InternVLConfig(
        vision_config=hf.InternVLVisionConfig(**vision),
        text_config=hf.Qwen2Config(**_text(tok)),
        image_token_id=tok.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        downsample_ratio=0.5,
    )
    return hf.InternVLForConditionalGeneration(config), processor


_BUILD: dict[str, Callable[[hf.PreTrainedTokenizerFast], tuple[nn.Module, object]]] = {
    "llava": _llava,
    "qwen2_5_vl": lambda tok: _qwen(tok, third=False),
    "qwen3_vl": lambda tok: _qwen(tok, third=True),
    "idefics3": _idefics3,
    "smolvlm": lambda tok: _idefics3(tok, small=True),
    "paligemma": _paligemma,
    "internvl": _internvl,
}
NAMES = tuple(_BUILD)


def build(name: str, root: Path) -> Family:
    """Write a tiny model of the family and its processor to ``root / name``."""
    folder = root / name
    tok = tokenizer(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model, processor = _BUILD[name](tok)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.15)
    end = "<end_of_utterance>" if name in ("idefics3", "smolvlm") else "</s>"
    model.generation_config = hf.GenerationConfig(
        eos_token_id=tok.convert_tokens_to_ids(end), pad_token_id=0, bos_token_id=1
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return Family(name, folder, text_only=name != "paligemma")
