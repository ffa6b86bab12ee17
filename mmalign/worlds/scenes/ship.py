"""Writing a base model to a folder that the Auto classes load, with a record of what it is."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import LlavaForConditionalGeneration

from mmalign.worlds.scenes.model import make_processor

__all__ = ["file_sha256", "ship"]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def ship(
    model: LlavaForConditionalGeneration, folder: Path, record: Mapping[str, Any], *, half: bool = False
) -> str:
    """Save weights (safetensors, fp16 when ``half``), tokenizer, processor and ``README.json``.

    Returns the SHA-256 of the weights, which ``README.json`` records as ``weights_sha256``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stored = copy.deepcopy(model).eval().to(torch.float16 if half else torch.float32)
    stored.save_pretrained(folder)
    make_processor().save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    digest = file_sha256(folder / "model.safetensors")
    parameters = sum(p.numel() for p in model.parameters())
    text = json.dumps({"weights_sha256": digest, "parameters": parameters, **record}, indent=1)
    (folder / "README.json").write_text(text + "\n")
    return digest
