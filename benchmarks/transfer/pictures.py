"""Picture files with labels, read one at a time and resized straight to a square, as the papers on tuning do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from mmalign.errors import UserError, nearest

__all__ = ["PictureFiles", "folder_named"]


class PictureFiles:
    """A map-style data set over files.

    Args:
        root: folder that the names are relative to.
        items: ``(name of the file, label)``.
        size: width and height in pixels; the picture is stretched to it (bicubic), not cropped.

    Raises:
        UserError: for the first file that does not exist; on reading, for one that is no picture.
    """

    def __init__(self, root: Path, items: Sequence[tuple[str, int]], size: int) -> None:
        self.root, self.items, self.size = root, tuple(items), size
        for name, _ in self.items:
            if not (root / name).is_file():
                raise UserError(f"{root / name}: no such picture, though the list of its split names it")

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """A picture ``[3, size, size]`` in [0, 1] and its label."""
        name, label = self.items[index]
        try:
            with Image.open(self.root / name) as opened:
                picture = opened.convert("RGB").resize((self.size, self.size), Image.Resampling.BICUBIC)
        except (UnidentifiedImageError, OSError) as error:
            raise UserError(f"{self.root / name}: cannot be read as a picture ({error})") from None
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
        return pixels, torch.tensor(label)


def folder_named(root: Path, names: Sequence[str], suite: str) -> Path:
    """The first of ``names`` that is a folder in ``root``.

    Raises:
        UserError: where none is, with the nearest name that is there.
    """
    for name in names:
        if (root / name).is_dir():
            return root / name
    there = [entry.name for entry in root.iterdir() if entry.is_dir()] if root.is_dir() else []
    raise UserError(f"{suite}: {root} has no folder {' or '.join(names)}{nearest(names[0], there)}")
