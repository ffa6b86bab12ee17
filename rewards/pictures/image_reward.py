"""ImageReward: a BLIP cross-encoder of picture and prompt under a head of five linear layers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmalign.errors import UserError
from mmalign.rewards.pictures.clip_scores import linear_stack
from mmalign.rewards.pictures.paying import paid
from mmalign.rewards.pictures.tensors import Preparation, prompt_text
from mmalign.rewards.pictures.weights import fill_module, read_weights, weights_file
from mmalign.types import Rollout, Row, StepReward

__all__ = ["ImageReward", "transformers_keys"]

MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""What the released score subtracts and divides by."""
LONGEST = 35
"""Prompts are cut after so many tokens."""
_VISION = (
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^norm\.", "post_layernorm."),
    (r"^blocks\.", "encoder.layers."),
    (r"\.norm(\d)\.", r".layer_norm\1."),
    (r"\.attn\.proj\.", ".self_attn.projection."),
    (r"\.attn\.", ".self_attn."),
)


def transformers_keys(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The released file's tensors as ``vision``, ``text`` and ``head``, under transformers' names.

    Args:
        tensors: with ``blip.visual_encoder.``, ``blip.text_encoder.`` and ``mlp.`` in front.
    """
    vision: dict[str, Tensor] = {}
    for key, value in _below(tensors, "blip.visual_encoder.").items():
        for pattern, name in _VISION:
            key = re.sub(pattern, name, key)
        vision[key] = value
    return {"vision": vision, "text": _below(tensors, "blip.text_encoder."), "head": _below(tensors, "mlp.")}


class ImageReward:
    """``(head(cross-encoder(picture, prompt)) - 0.16717) / 1.03334``, about -2 to 2.

    The sizes of the picture tower are read off the weights (64 numbers per attention head, as every released ViT has).

    *Reference:* Xu et al. (2023, arXiv:2304.05977) and their code. *Differs:* float32 throughout; the picture is not
    rounded to 8 bits after resizing, so that the score can be differentiated.

    Args:
        folder: with ``ImageReward.pt`` (or safetensors under the same keys), ``med_config.json`` and the files of a
            BERT tokenizer.
        batch_size: pictures per pass.

    Raises:
        UserError: when a file is not there or lacks a key.
    """

    def __init__(self, folder: str, batch_size: int = 32) -> None:
        from transformers import AutoTokenizer

        home, self.batch_size = Path(folder), batch_size
        config = home / "med_config.json"
        if not config.is_file():
            raise UserError(f"{config} does not exist; it comes with the released ImageReward")
        file = weights_file(home, "ImageReward.pt", "ImageReward.safetensors")
        parts = transformers_keys(read_weights(file))
        vision = _vision_config(parts["vision"], file)
        med = json.loads(config.read_text(encoding="utf-8"))
        self.vision, self.text = _towers(vision, med, parts, file)
        self.head = linear_stack(parts["head"], file, med["hidden_size"])
        self.prepare = Preparation(vision["image_size"])
        self.tokenizer = AutoTokenizer.from_pretrained(home)

    def score(self, rows: Sequence[Row], outputs: Tensor) -> Tensor:
        """Scores ``[B]`` of pictures ``[B, 3, H, W]`` in [0, 1], with gradient."""
        for part in (self.vision, self.text, self.head):
            part.to(outputs.device)
        seen = self.vision(pixel_values=self.prepare(outputs)).last_hidden_state
        words = self.tokenizer(
            [prompt_text(row) for row in rows],
            padding="max_length",
            truncation=True,
            max_length=LONGEST,
            return_tensors="pt",
        ).to(outputs.device)
        read = self.text(
            input_ids=words.input_ids,
            attention_mask=words.attention_mask,
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=seen.device),
            is_decoder=False,
        ).last_hidden_state
        return (self.head(read[:, 0]).squeeze(-1) - MEAN) / STD

    def __call__(self, rollout: Rollout) -> StepReward:
        """Return the score of every answer on its last step."""
        return paid("imagereward", self.score, rollout, self.batch_size)


def _towers(
    vision: Mapping[str, int], med: Mapping[str, Any], parts: Mapping[str, dict[str, Tensor]], file: Path
) -> tuple[Any, Any]:
    from transformers import BlipTextConfig, BlipVisionConfig
    from transformers.models.blip.modeling_blip import BlipVisionModel
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    names = ("hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size", "vocab_size")
    lacking = next((name for name in names if name not in med), None)
    if lacking is not None:
        raise UserError(f"{file.parent / 'med_config.json'}: has no {lacking!r}")
    text = BlipTextConfig(
        **{name: med[name] for name in names},
        max_position_embeddings=med.get("max_position_embeddings", 512),
        layer_norm_eps=med.get("layer_norm_eps", 1e-12),
        encoder_hidden_size=vision["hidden_size"],
        bos_token_id=med["vocab_size"] - 1,
        eos_token_id=min(2, med["vocab_size"] - 1),
        sep_token_id=min(102, med["vocab_size"] - 1),
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    sizes: dict[str, Any] = {**vision, "layer_norm_eps": 1e-6}
    sees = BlipVisionModel(BlipVisionConfig(**sizes))
    reads: nn.Module = BlipTextModel(text, add_pooling_layer=False)
    return fill_module(sees, parts["vision"], file), fill_module(reads, parts["text"], file)


def _vision_config(tensors: Mapping[str, Tensor], file: Path) -> dict[str, int]:
    names = (
        "embeddings.patch_embedding.weight",
        "embeddings.position_embedding",
        "encoder.layers.0.mlp.fc1.weight",
    )
    lacking = next((name for name in names if name not in tensors), None)
    if lacking is not None:
        raise UserError(f"{file}: has no picture tower (no blip.visual_encoder key for {lacking})")
    patch, places, wide = (tensors[name] for name in names)
    layers = {int(key.split(".")[2]) for key in tensors if key.startswith("encoder.layers.")}
    side = round((places.shape[1] - 1) ** 0.5)
    return {
        "hidden_size": patch.shape[0],
        "intermediate_size": wide.shape[0],
        "num_hidden_layers": len(layers),
        "num_attention_heads": max(1, patch.shape[0] // 64),
        "image_size": side * patch.shape[2],
        "patch_size": patch.shape[2],
    }


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
