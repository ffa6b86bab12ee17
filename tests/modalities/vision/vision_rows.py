"""Rows, pictures and loaded families for the tests of the vision modality."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from vision_families import Family

from mmalign.modalities.vision import VisionAdapter
from mmalign.types import Row


def zero_image_features(model: nn.Module) -> nn.Module:
    """Make the model blind: whatever the images, the language model sees zeros in their place."""
    inner = model.base_model
    projector = next(
        getattr(inner, name)
        for name in ("multi_modal_projector", "connector", "visual")
        if hasattr(inner, name)
    )

    def blind(_module: nn.Module, _inputs: object, output: object) -> object:
        if isinstance(output, torch.Tensor):
            return torch.zeros_like(output)
        for key, value in output.items():
            output[key] = (
                [torch.zeros_like(v) for v in value]
                if isinstance(value, (list, tuple))
                else torch.zeros_like(value)
            )
        return output

    projector.register_forward_hook(blind)
    return model


@dataclass(frozen=True)
class Loaded:
    """A family with its loaded adapter and model."""

    family: Family
    adapter: VisionAdapter
    model: Any


def load(family: Family) -> Loaded:
    adapter = VisionAdapter()
    return Loaded(family, adapter, adapter.load(str(family.folder)))


def picture(seed: int, width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def make_rows(family: Family) -> list[Row]:
    """Rows of different prompts, answers, picture sizes and numbers of pictures."""
    chat = [
        {"role": "system", "content": "question answer"},
        {"role": "user", "content": [{"type": "text", "text": "What is it?"}, {"type": "image"}]},
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": "describe the picture . What is a bird?"},
    ]
    rows = [
        Row("plain", "describe the picture .", (picture(0, 64, 64),), "there is a red circle ."),
        Row("wide", "What is it?", (picture(1, 90, 40),), "A cat, a dog; and a bird!"),
        Row("array", "What?", (np.asarray(picture(2, 40, 71)),), [{"role": "assistant", "content": "A cat"}]),
        Row("chat", chat, (picture(3, 33, 64),), "the circle is left of the blue square ."),
    ]
    if family.several_images:
        rows.append(Row("two", "describe the picture .", (picture(4, 50, 50), picture(5, 80, 30)), "a dog"))
    if family.text_only:
        rows.append(Row("text", "What is a picture?", (), "a blue square ."))
    return rows
