"""Writing a model to a folder that transformers loads, its codec beside it, with a record of what it is."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import MusicgenForConditionalGeneration

from mmalign.worlds.tunes.codec import BandCodec
from mmalign.worlds.tunes.model import make_tokenizer

__all__ = ["file_sha256", "ship"]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def ship(
    model: MusicgenForConditionalGeneration, codec: BandCodec, folder: Path, record: Mapping[str, Any]
) -> str:
    """Save weights, tokenizer, codec and ``README.json``; a stop while writing leaves the files that were there.

    Returns the SHA-256 of the weights, which ``README.json`` records as ``weights_sha256``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as made:
        staging = Path(made)
        copy.deepcopy(model).eval().save_pretrained(staging)
        make_tokenizer().save_pretrained(staging)
        codec.save(staging)
        (staging / "model.safetensors").chmod(0o644)
        digest = file_sha256(staging / "model.safetensors")
        text = {
            "weights_sha256": digest,
            "codec_sha256": file_sha256(staging / "codec.safetensors"),
            "parameters": sum(p.numel() for p in model.parameters()),
            **record,
        }
        (staging / "README.json").write_text(json.dumps(text, indent=1) + "\n")
        for file in sorted(staging.iterdir()):
            os.replace(file, folder / file.name)
    return digest
