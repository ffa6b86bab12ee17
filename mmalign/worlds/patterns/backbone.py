"""The tiny ViT that is shipped pretrained on glyphs, and how it is written where timm loads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmalign.worlds.patterns.canvas import SIDE
from mmalign.worlds.scenes.ship import file_sha256

__all__ = ["ARCHITECTURE", "MINI_VIT", "MODEL_ARGS", "PRETRAINED_CFG", "ship"]

MINI_VIT = Path(__file__).parent / "mini-vit"
"""Folder of the shipped weights; ``timm.create_model("local-dir:...", pretrained=True)`` loads it."""
ARCHITECTURE = "vit_tiny_patch16_224"
MODEL_ARGS: Mapping[str, Any] = {
    "img_size": SIDE,
    "patch_size": 6,
    "embed_dim": 48,
    "depth": 4,
    "num_heads": 3,
}
"""What differs from timm's model of that name: 16 patches, 48 channels, 4 blocks, 119,280 numbers."""
PRETRAINED_CFG: Mapping[str, Any] = {
    "input_size": [3, SIDE, SIDE],
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "num_classes": 0,
    "first_conv": "patch_embed.proj",
    "classifier": "head",
}


def ship(state: Mapping[str, Any], folder: Path, record: Mapping[str, Any]) -> str:
    """Write weights (safetensors), ``config.json`` and ``README.json``; returns the weights' SHA-256.

    Args:
        state: of the ViT without head, ``name -> tensor``.
        folder: is made.
        record: command, seed and figures for ``README.json``.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "model.safetensors")
    (folder / "model.safetensors").chmod(0o644)
    config = {
        "architecture": ARCHITECTURE,
        "num_classes": 0,
        "num_features": MODEL_ARGS["embed_dim"],
        "model_args": dict(MODEL_ARGS),
        "pretrained_cfg": dict(PRETRAINED_CFG),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    digest = file_sha256(folder / "model.safetensors")
    parameters = sum(value.numel() for value in state.values())
    text = json.dumps({"weights_sha256": digest, "parameters": parameters, **record}, indent=1)
    (folder / "README.json").write_text(text + "\n", encoding="utf-8")
    return digest
