"""Rollouts whose answers are pictures, and tiny random encoders written as their owners write them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from mmalign.types import Rollout, Row

PROMPTS = ("a red square", "a blue circle left of a red square")
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "blue", "square", "circle", "left", "of")


def pictures(n: int, side: int = 24, seed: int = 0) -> Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


def rollout(answers: Sequence[Any], group: Sequence[int] | None = None, steps: int = 3) -> Rollout:
    rows = tuple(Row(f"r{k}", PROMPTS[k % 2], completion=answer) for k, answer in enumerate(answers))
    mask = torch.ones(len(rows), steps, dtype=torch.bool)
    mask[:, -1] = False
    groups = torch.tensor(list(group) if group is not None else list(range(len(rows))))
    return Rollout(rows, torch.zeros(len(rows), steps), mask, torch.ones(len(rows), dtype=torch.bool), groups)


def transformers_clip(folder: Path) -> Any:
    """A tiny ``CLIPModel`` with tokenizer, saved by transformers."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {
        "vocab_size": 16,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "pad_token_id": 0,
        "max_position_embeddings": 12,
    }
    config = CLIPConfig(
        text_config={**tower, **ids},
        vision_config={**tower, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    model = CLIPModel(config).eval()
    model.save_pretrained(folder)
    vocabulary = {word: k for k, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", eos_token="[SEP]")
    made.save_pretrained(folder)
    return model


def open_clip_folder(folder: Path) -> Any:
    """A tiny open_clip model in open_clip's own folder layout."""
    import open_clip

    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
    said = {"model_cfg": config, "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}}
    (folder / "open_clip_config.json").write_text(json.dumps(said), encoding="utf-8")
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False).eval()
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    return model


def image_reward_folder(folder: Path) -> dict[str, Tensor]:
    """Random weights under the released keys of ImageReward, with its configuration and a BERT vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    med = {
        "hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 48,
        "vocab_size": 20, "max_position_embeddings": 64, "layer_norm_eps": 1e-12, "encoder_width": 64,
    }  # fmt: skip
    (folder / "med_config.json").write_text(json.dumps(med), encoding="utf-8")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True}), encoding="utf-8"
    )
    shapes = {**_vit_shapes(), **_bert_shapes()}
    for k, (n, m) in zip(
        (0, 2, 4, 6, 7), ((32, 1024), (1024, 128), (128, 64), (64, 16), (16, 1)), strict=True
    ):
        shapes |= {f"mlp.layers.{k}.weight": (m, n), f"mlp.layers.{k}.bias": (m,)}
    rng = torch.Generator().manual_seed(3)
    tensors = {key: torch.randn(shape, generator=rng) * (0.2 if len(shape) < 2 else shape[-1] ** -0.5)
               for key, shape in shapes.items()}  # fmt: skip
    torch.save(tensors, folder / "ImageReward.pt")
    return tensors


def _vit_shapes() -> dict[str, tuple[int, ...]]:
    top = "blip.visual_encoder."
    shapes: dict[str, tuple[int, ...]] = {
        f"{top}cls_token": (1, 1, 64), f"{top}pos_embed": (1, 17, 64), f"{top}patch_embed.proj.weight": (64, 3, 8, 8),
        f"{top}patch_embed.proj.bias": (64,), f"{top}norm.weight": (64,), f"{top}norm.bias": (64,),
    }  # fmt: skip
    for k in range(2):
        for name, size in (("attn.qkv", (192, 64)), ("attn.proj", (64, 64)), ("mlp.fc1", (128, 64)),
                           ("mlp.fc2", (64, 128)), ("norm1", (64,)), ("norm2", (64,))):  # fmt: skip
            shapes |= {f"{top}blocks.{k}.{name}.weight": size, f"{top}blocks.{k}.{name}.bias": size[:1]}
    return shapes


def _bert_shapes() -> dict[str, tuple[int, ...]]:
    top = "blip.text_encoder."
    shapes: dict[str, tuple[int, ...]] = {
        f"{top}embeddings.word_embeddings.weight": (20, 32), f"{top}embeddings.position_embeddings.weight": (64, 32),
        f"{top}embeddings.position_ids": (1, 64),
        f"{top}embeddings.LayerNorm.weight": (32,), f"{top}embeddings.LayerNorm.bias": (32,),
    }  # fmt: skip
    for k in range(2):
        layers = {"intermediate.dense": (48, 32), "output.dense": (32, 48), "output.LayerNorm": (32,)}
        for kind, width in (("attention", 32), ("crossattention", 64)):
            layers |= {f"{kind}.self.query": (32, 32), f"{kind}.self.key": (32, width), f"{kind}.self.value": (32, width),
                       f"{kind}.output.dense": (32, 32), f"{kind}.output.LayerNorm": (32,)}  # fmt: skip
        for name, size in layers.items():
            shapes |= {
                f"{top}encoder.layer.{k}.{name}.weight": size,
                f"{top}encoder.layer.{k}.{name}.bias": size[:1],
            }
    return shapes
