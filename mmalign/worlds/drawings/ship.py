"""Writing a trained pipeline to a folder that ``from_pretrained`` loads, with a record of what it is."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mmalign.worlds.drawings.pipeline import DrawingPipeline
from mmalign.worlds.scenes.ship import file_sha256

__all__ = ["ship"]


def ship(pipeline: DrawingPipeline, folder: Path, record: Mapping[str, Any]) -> dict[str, str]:
    """Save the pipeline (safetensors, the transformer in float16) and ``README.json``; replaces the whole folder.

    diffusers loads its own parts in float32 whatever they are stored in; transformers keeps what the file has, so the
    text encoder is stored in float32.

    Returns the SHA-256 of every weights file, which ``README.json`` records as ``weights_sha256``.
    """
    staging = folder.with_name(folder.name + ".new")
    shutil.rmtree(staging, ignore_errors=True)
    parts = {name: copy.deepcopy(part) for name, part in pipeline.components.items()}
    parts["transformer"].to(torch.float16)
    DrawingPipeline(**parts).save_pretrained(staging)
    weights = sorted(staging.rglob("*.safetensors"))
    digests = {str(file.relative_to(staging)): file_sha256(file) for file in weights}
    parameters = {
        name: sum(p.numel() for p in part.parameters())
        for name, part in pipeline.components.items()
        if isinstance(part, torch.nn.Module)
    }
    text = json.dumps({"weights_sha256": digests, "parameters": parameters, **record}, indent=1)
    (staging / "README.json").write_text(text + "\n", encoding="utf-8")
    for file in staging.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(staging, folder)
    return digests
