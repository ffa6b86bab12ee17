"""The tiny ViTs that are shipped pretrained on glyphs, and how they are written where timm loads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmalign.worlds.patterns.canvas import SIDE
from mmalign.worlds.scenes.ship import file_sha256

__all__ = ["ARCHITECTURE", "MINI_VIT", "PRETRAINED_CFG", "SMALL_VIT", "model_args", "ship"]

MINI_VIT = Path(__file__).parent / "mini-vit"
"""Folder of the shipped weights; ``timm.create_model("local-dir:...", pretrained=True)`` loads it."""
SMALL_VIT = Path(__file__).parent / "small-vit"
"""Folder of one five times as large: 96 channels, 6 blocks."""
ARCHITECTURE = "vit_tiny_patch16_224"
"""timm's model that both are sizes of."""
PRETRAINED_CFG: Mapping[str, Any] = {
    "input_size": [3, SIDE, SIDE],
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "num_classes": 0,
    "first_conv": "patch_embed.proj",
    "classifier": "head",
}


def model_args(width: int = 48, depth: int = 4) -> dict[str, Any]:
    """What differs from timm's model of that name: 16 patches, 3 heads; as given, mini-vit's 119,280 numbers."""
    return {"img_size": SIDE, "patch_size": 6, "embed_dim": width, "depth": depth, "num_heads": 3}


def ship(state: Mapping[str, Any], folder: Path, record: Mapping[str, Any], args: Mapping[str, Any]) -> str:
    """Write weights (safetensors), ``config.json`` and ``README.json``; returns the weights' SHA-256.

    Args:
        state: of the ViT without head, ``name -> tensor``.
        folder: is made.
        record: command, seed and figures for ``README.json``.
        args: of the architecture (:func:`model_args`).
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "model.safetensors")
    (folder / "model.safetensors").chmod(0o644)
    config = {
        "architecture": ARCHITECTURE,
        "num_classes": 0,
        "num_features": args["embed_dim"],
        "model_args": dict(args),
        "pretrained_cfg": dict(PRETRAINED_CFG),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    digest = file_sha256(folder / "model.safetensors")
    parameters = sum(value.numel() for value in state.values())
    text = json.dumps({"weights_sha256": digest, "parameters": parameters, **record}, indent=1)
    (folder / "README.json").write_text(text + "\n", encoding="utf-8")
    return digest
