"""Pictures held in memory as bytes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmalign.errors import UserError, nearest
from mmalign.protocols.transfer import SPLITS

__all__ = ["Arrays", "Made", "check_split"]

Made = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Pictures ``[N, 3, H, W]`` and labels, ``[N]`` or ``[N, H, W]``."""


class Arrays:
    """A map-style data set over arrays.

    Args:
        images: ``[N, 3, H, W]`` in 0..255.
        labels: ``[N]`` or ``[N, H, W]``.
    """

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
        if len(images) != len(labels):
            raise ValueError(f"{len(images)} pictures and {len(labels)} labels")
        self.images, self.labels = torch.from_numpy(images), torch.from_numpy(labels)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """A picture in [0, 1] and its label."""
        return self.images[index].float() / 255, self.labels[index]


def check_split(suite: str, split: str) -> str:
    """``split``, if it is one.

    Raises:
        UserError: with the nearest name.
    """
    if split not in SPLITS:
        raise UserError(f"{suite}: no split {split}{nearest(split, SPLITS)}; there are {', '.join(SPLITS)}")
    return split
