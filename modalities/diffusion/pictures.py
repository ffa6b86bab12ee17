"""Prompts and pictures of rows: texts, tensors, PIL images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmalign.data.content import media_digest
from mmalign.errors import UserError
from mmalign.modalities.tokens.prompts import plain_text
from mmalign.modalities.vision.media import open_image
from mmalign.types import Row

__all__ = ["picture_key", "pixels_of", "prompt_of", "to_pil", "to_unit"]


def prompt_of(row: Row) -> str:
    """The words of a row's prompt.

    Raises:
        UserError: when the prompt is neither text nor messages.
    """
    text = plain_text(row.prompt)
    if text is None and not row.prompt:
        return ""
    if text is None:
        raise UserError(f'row "{row.id}": prompt must be text or messages, not {type(row.prompt).__name__}')
    return text


def pixels_of(row: Row, size: tuple[int, int]) -> Tensor:
    """The row's picture ``[3, H, W]`` in -1 to 1, resized where it has another size.

    Raises:
        UserError: when the row has no picture, or one that cannot be read.
    """
    image = open_image(_picture(row), row.id)
    high, wide = size
    if image.size != (wide, high):
        image = image.resize((wide, high), Image.Resampling.BICUBIC)
    values = torch.from_numpy(np.asarray(image, dtype=np.float32).copy())
    return values.permute(2, 0, 1) / 127.5 - 1.0


def picture_key(row: Row) -> str:
    """A hash of the content of the row's picture."""
    return media_digest(_picture(row))


def to_unit(decoded: Tensor) -> Tensor:
    """Decoded pictures, about -1 to 1, as numbers from 0 to 1; differentiable inside that range."""
    return (decoded / 2 + 0.5).clamp(0.0, 1.0)


def to_pil(unit: Tensor) -> list[Image.Image]:
    """Pictures ``[B, 3, H, W]`` from 0 to 1 as PIL images, rounded as diffusers does."""
    values: Any = unit.detach().cpu().permute(0, 2, 3, 1).float().numpy()
    return [Image.fromarray(one) for one in (values * 255).round().astype(np.uint8)]


def _picture(row: Row) -> Any:
    answer: Any = row.completion
    if isinstance(answer, Sequence) and not isinstance(answer, str) and len(answer) == 1:
        answer = answer[0]
    if answer is None:
        raise UserError(
            f'row "{row.id}": it has no picture (completion) and no steps, so there is nothing to score'
        )
    return answer
