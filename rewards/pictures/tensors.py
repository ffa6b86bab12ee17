"""Answers as pictures: tensors ``[3, H, W]`` in [0, 1], and what an encoder makes of them, with gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mmalign.errors import UserError
from mmalign.types import Row

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["CLIP_MEAN", "CLIP_STD", "Preparation", "as_picture", "as_tensor", "prompt_text"]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Mean of CLIP's training pictures per channel."""
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Their standard deviation."""


def as_tensor(row: Row) -> Tensor:
    """The answer of a row as ``[3, H, W]`` in [0, 1]: a PIL picture, a path, an array or a tensor.

    Integer arrays are ``[H, W, 3]`` in 0..255, floating ones ``[H, W, 3]`` in [0, 1]; tensors ``[3, H, W]`` in [0, 1].

    Raises:
        UserError: when the answer is no picture.
    """
    item = row.completion
    if isinstance(item, Tensor):
        if item.dim() == 3 and item.shape[0] == 3 and item.is_floating_point():
            return item.detach().float().clamp(0, 1)
        raise UserError(
            f"row {row.id!r}: the answer is a tensor {tuple(item.shape)}, expected [3, H, W] in [0, 1]"
        )
    if isinstance(item, str | Path) and Path(item).is_file():
        from PIL import Image

        with Image.open(item) as opened:
            item = opened.convert("RGB")
    if hasattr(item, "convert") and hasattr(item, "tobytes"):
        item = np.asarray(item.convert("RGB"))
    if not isinstance(item, np.ndarray) or item.ndim != 3 or item.shape[2] != 3:
        raise UserError(
            f"row {row.id!r}: a reward of pictures needs a picture as answer, found {_named(item)}"
        )
    scale = 255.0 if np.issubdtype(item.dtype, np.integer) else 1.0
    return torch.from_numpy(np.array(item)).float().div(scale).clamp(0, 1).permute(2, 0, 1)


def as_picture(picture: Tensor) -> Image:
    """A tensor ``[3, H, W]`` in [0, 1] as a PIL picture of 8 bits per channel, rounded."""
    from PIL import Image

    array = picture.detach().clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(np.ascontiguousarray(array))


def prompt_text(row: Row) -> str:
    """The prompt in words: the text itself, or the texts of the last message of a conversation.

    Raises:
        UserError: when there are none.
    """
    prompt = row.prompt
    if isinstance(prompt, list) and prompt and isinstance(prompt[-1], dict):
        prompt = prompt[-1].get("content")
        if isinstance(prompt, list):
            prompt = " ".join(part.get("text", "") for part in prompt if part.get("type") == "text")
    if not isinstance(prompt, str):
        raise UserError(f"row {row.id!r}: expected a prompt in words, found {_named(prompt)}")
    return prompt


@dataclass(frozen=True, slots=True)
class Preparation:
    """What CLIP-type encoders see: shortest side to ``size`` (bicubic), the middle square, normalised channels.

    The same as torchvision's ``Resize``, ``CenterCrop``, ``ToTensor``, ``Normalize`` on a PIL picture but for PIL's
    rounding and clipping to 8 bits after each direction, and differentiable.
    """

    size: int
    mean: Sequence[float] = CLIP_MEAN
    std: Sequence[float] = CLIP_STD

    def __call__(self, pictures: Tensor) -> Tensor:
        """``[B, 3, H, W]`` in [0, 1] to ``[B, 3, size, size]``."""
        height, width = pictures.shape[-2:]
        if min(height, width) != self.size or height != width:
            short = min(height, width)
            shape = [int(self.size * side / short) for side in (height, width)]
            pictures = torch.nn.functional.interpolate(pictures, shape, mode="bicubic", antialias=True).clamp(
                0, 1
            )
            top, left = (round((side - self.size) / 2) for side in shape)
            pictures = pictures[..., top : top + self.size, left : left + self.size]
        mean, std = (
            torch.tensor(list(x), device=pictures.device).view(3, 1, 1) for x in (self.mean, self.std)
        )
        return (pictures - mean) / std


def _named(item: Any) -> str:
    return "nothing" if item is None else f"{type(item).__name__} {str(item)[:40]!r}"
