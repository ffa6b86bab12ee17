"""Rewards of a picture alone: size as JPEG, brightness, colourfulness."""

from __future__ import annotations

import io
from collections.abc import Sequence

import torch
from torch import Tensor

from mmalign.errors import UserError
from mmalign.rewards.pictures.paying import paid
from mmalign.rewards.pictures.tensors import as_picture
from mmalign.types import Rollout, Row, StepReward

__all__ = ["Brightness", "Colourfulness", "JpegCompressibility", "JpegIncompressibility", "jpeg_kilobytes"]


def jpeg_kilobytes(pictures: Tensor, quality: int = 95) -> Tensor:
    """Size of each picture ``[B, 3, H, W]`` as a JPEG file, ``[B]`` in kB (1000 bytes); not differentiable.

    *Reference:* Black et al. (2023, arXiv:2305.13301), section 5.1, and their code. *Differs:* none.
    """
    sizes = []
    for picture in pictures:
        buffer = io.BytesIO()
        as_picture(picture).save(buffer, "JPEG", quality=quality)
        sizes.append(len(buffer.getvalue()) / 1000)
    return torch.tensor(sizes)


class JpegIncompressibility:
    """Pay the size of the picture as a JPEG file, in kB.

    Args:
        quality: of the file, 1 to 95.

    Raises:
        UserError: for another quality.
    """

    def __init__(self, quality: int = 95) -> None:
        if not 1 <= quality <= 95:
            raise UserError(f"quality: expected 1 to 95, found {quality}")
        self.quality = quality

    def __call__(self, rollout: Rollout) -> StepReward:
        """Return the size of every answer on its last step."""
        return paid("jpeg", lambda _, pictures: jpeg_kilobytes(pictures, self.quality), rollout)


class JpegCompressibility(JpegIncompressibility):
    """Pay minus the size of the picture as a JPEG file, in kB."""

    def __call__(self, rollout: Rollout) -> StepReward:
        """Return minus the size of every answer on its last step."""
        return paid("jpeg", lambda _, pictures: -jpeg_kilobytes(pictures, self.quality), rollout)


class Brightness:
    """Pay the mean luma of the picture, in [0, 1]: the quickest reward to see a method work on."""

    def score(self, rows: Sequence[Row], outputs: Tensor) -> Tensor:
        """``.299 R + .587 G + .114 B`` averaged over pixels, ``[B]``, with gradient."""
        return _luma(outputs).mean((1, 2))

    def __call__(self, rollout: Rollout) -> StepReward:
        """Return the brightness of every answer on its last step."""
        return paid("brightness", self.score, rollout)


class Colourfulness:
    """Pay Hasler and Süsstrunk's colourfulness over 100, computed on channels in 0..255 (natural pictures: 0 to 1).

    With ``rg = R - G`` and ``yb = (R + G)/2 - B``: ``sqrt(var rg + var yb) + .3 sqrt(mean(rg)^2 + mean(yb)^2)``.

    *Reference:* Hasler and Süsstrunk, Measuring colourfulness in natural images (2003). *Differs:* divided by 100.
    """

    def score(self, rows: Sequence[Row], outputs: Tensor) -> Tensor:
        """Colourfulness ``[B]``, with gradient (0 of a picture of one grey)."""
        red, green, blue = (255.0 * outputs).unbind(1)
        rg, yb = red - green, (red + green) / 2 - blue
        spread = rg.var((1, 2), correction=0) + yb.var((1, 2), correction=0)
        shift = rg.mean((1, 2)).square() + yb.mean((1, 2)).square()
        return (_root(spread) + 0.3 * _root(shift)) / 100

    def __call__(self, rollout: Rollout) -> StepReward:
        """Return the colourfulness of every answer on its last step."""
        return paid("colourfulness", self.score, rollout)


def _luma(pictures: Tensor) -> Tensor:
    weights = torch.tensor([0.299, 0.587, 0.114], device=pictures.device, dtype=pictures.dtype)
    return torch.einsum("bchw,c->bhw", pictures, weights)


def _root(x: Tensor) -> Tensor:
    """Square root with gradient 0 at 0."""
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1.0).sqrt(), 0.0)
