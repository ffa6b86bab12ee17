"""The second detector: a small convolutional network that reads one cell at a time."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from mmalign.rng import derive_seed, numpy_generator
from mmalign.worlds.drawings.prompts import THINGS, draw_wish
from mmalign.worlds.drawings.scene import draw_array, place, scene_for
from mmalign.worlds.drawings.templates import Reading, cells_of

__all__ = [
    "EMPTY",
    "READER",
    "UNREADABLE",
    "CellReader",
    "corrupted",
    "labelled_cells",
    "read_cells",
    "shipped",
]

READER = Path(__file__).parent / "reader"
"""Folder of the shipped network."""
EMPTY, UNREADABLE = len(THINGS), len(THINGS) + 1
"""Labels of a cell with nothing in it and of one with something that is no object."""


class CellReader(nn.Module):
    """Cells ``[N, 3, 16, 16]`` in 0..1 to scores ``[N, 18]``: sixteen objects, empty, unreadable (61 k parameters)."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(2 * width * 16, 64),
            nn.ReLU(),
            nn.Linear(64, len(THINGS) + 2),
        )

    def forward(self, cells: Tensor) -> Tensor:
        """Scores of every label."""
        return self.layers(2 * cells - 0.6)


def labelled_cells(n: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Cells ``[4 n, 16, 16, 3]`` of ``n`` drawn training pictures with their true labels ``[4 n]``."""
    rng = numpy_generator(seed, "drawings", "cells")
    pictures, labels = [], np.full((n, 4), EMPTY)
    for i in range(n):
        scene = scene_for(draw_wish("train", rng), derive_seed(seed, "cells", i), "train")
        pictures.append(draw_array(scene))
        for o in scene.objects:
            labels[i, o.row * 2 + o.col] = THINGS.index((o.color, o.cls))
    cells = cells_of(np.stack(pictures))
    return cells.reshape(-1, *cells.shape[2:]), labels.reshape(-1).astype(np.int64)


def _spoil(kind: int, a: Tensor, b: Tensor, rng: np.random.Generator) -> Tensor:
    """One ruined cell from two cells ``[3, 16, 16]``: a blend, two halves, scattered blocks, or smooth noise."""
    if kind == 0:
        return a.lerp(b, float(rng.uniform(0.4, 0.6)))
    if kind == 1:
        cut = int(rng.integers(6, 11))
        if rng.random() < 0.5:
            return torch.cat([a[:, :cut], b[:, cut:]], 1)
        return torch.cat([a[:, :, :cut], b[:, :, cut:]], 2)
    if kind == 2:
        blocks = (
            a.unfold(1, 4, 4).unfold(2, 4, 4).reshape(3, 16, 4, 4)[:, torch.from_numpy(rng.permutation(16))]
        )
        return F.fold(blocks.permute(0, 2, 3, 1).reshape(1, 48, 16), (16, 16), 4, stride=4)[0]
    coarse = torch.from_numpy(rng.uniform(0, 1, (1, 3, 5, 5)).astype(np.float32))
    return F.interpolate(coarse, (16, 16), mode="bilinear", align_corners=False)[0]


def corrupted(cells: Tensor, labels: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A training batch: noise, blur, fading and shifts keep a label; a fifth of the objects are ruined and lose it.

    Args:
        cells: ``[N, 3, 16, 16]`` in 0..1.
        labels: ``[N]``.
        rng: decides everything.
    """
    x, y, n = cells.clone(), labels.clone(), len(cells)
    things = torch.nonzero(labels != EMPTY)[:, 0].numpy()
    for i in things[rng.random(len(things)) < 0.2]:
        kind = int(rng.integers(4))
        other = rng.integers(n) if kind == 1 else things[rng.integers(len(things))]
        if kind < 2 and labels[i] == labels[other]:
            continue
        x[i], y[i] = _spoil(kind, cells[i], cells[other], rng), UNREADABLE
    shift = [int(s) for s in rng.integers(-1, 2, 2)]
    x = F.pad(x, (1, 1, 1, 1), mode="replicate")[
        :, :, 1 + shift[0] : 17 + shift[0], 1 + shift[1] : 17 + shift[1]
    ]
    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    share = torch.from_numpy(rng.uniform(0, 0.6, (n, 1, 1, 1)).astype(np.float32))
    x = x.lerp(blurred, share * torch.from_numpy(rng.random((n, 1, 1, 1)) < 0.5))
    noise = torch.from_numpy(rng.standard_normal(x.shape, np.float32))
    spread = torch.from_numpy(rng.uniform(0, 0.1, (n, 1, 1, 1)).astype(np.float32))
    return (x + noise * spread).clamp(0, 1), y


@functools.cache
def shipped() -> CellReader:
    """The network that comes with the package."""
    reader = CellReader()
    reader.load_state_dict(load_file(READER / "model.safetensors"))
    return reader.eval()


@torch.no_grad()
def read_cells(pictures: NDArray[np.uint8], reader: CellReader | None = None) -> list[Reading]:
    """Read pictures ``[N, 32, 32, 3]`` by the network's most likely label in every cell."""
    cells = torch.from_numpy(cells_of(pictures)).flatten(0, 1).permute(0, 3, 1, 2).float() / 255
    labels = (reader or shipped())(cells).argmax(1).reshape(len(pictures), 4).tolist()
    return [
        Reading(
            tuple(
                place(THINGS[label][0], THINGS[label][1], cell)
                for cell, label in enumerate(row)
                if label < EMPTY
            ),
            tuple(cell for cell, label in enumerate(row) if label == UNREADABLE),
        )
        for row in labels
    ]
