"""``fgvc``: the five fine-grained sets, from folders with ``train.json``, ``val.json`` and ``test.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmalign.benchmarks.transfer.arrays import check_split
from mmalign.benchmarks.transfer.pictures import PictureFiles, folder_named
from mmalign.errors import UserError
from mmalign.protocols.transfer import TransferTask
from mmalign.rng import numpy_generator

__all__ = ["FGVC", "SETS"]

SETS: Mapping[str, tuple[int, tuple[str, ...], str]] = {
    "cub": (200, ("CUB_200_2011", "cub"), "images"),
    "nabirds": (555, ("nabirds",), "images"),
    "oxford_flowers": (102, ("OxfordFlower", "OxfordFlowers", "oxford_flowers"), ""),
    "stanford_dogs": (120, ("Stanford-dogs", "StanfordDogs", "stanford_dogs"), "Images"),
    "stanford_cars": (196, ("Stanford-cars", "StanfordCars", "stanford_cars"), ""),
}
"""Task -> classes, names its folder may have, and the folder of its pictures within."""
VAL_SHARE = 0.1
"""Of the training pictures, for validation where a set has no ``val.json``."""


class FGVC:
    """Folders ``<folder>/<set>/`` with JSON maps from a picture's file to its class's id.

    Ids are numbered from 0 in ascending order of those in training (and validation).  A set without ``val.json`` has a
    tenth of its training pictures held out, drawn by ``seed``.

    Reference: Jia et al. 2022, arXiv 2203.12119 (the five sets and their split files).
    Differs from the authors' code: ids are numbered once for all splits; there each split numbers its own.

    Args:
        folder: that holds the sets' folders.
        size: pictures are resized to, in pixels.
        seed: of the validation split where none is given.

    Raises:
        UserError: where ``folder`` is none.
    """

    name = "fgvc"
    backbone = "timm:vit_base_patch16_224.augreg_in21k?pretrained"

    def __init__(self, folder: str, size: int = 224, seed: int = 0) -> None:
        self.folder, self.size, self.seed = Path(folder), size, seed
        if not self.folder.is_dir():
            raise UserError(f"fgvc: {folder} is no folder")

    def tasks(self) -> tuple[TransferTask, ...]:
        """The five sets; they are one group, so that both averages are the plain mean."""
        return tuple(TransferTask(name, "fgvc", "classes", classes) for name, (classes, _, _) in SETS.items())

    def data(self, task: TransferTask, split: str) -> PictureFiles:
        """The pictures of a split.

        Raises:
            UserError: for a missing folder, file or picture, or a class that training does not have.
        """
        check_split(self.name, split)
        _, names, pictures = SETS[task.name]
        home = folder_named(self.folder, names, self.name)
        train, val = self._training(home)
        ids = sorted({*train.values(), *val.values()}, key=_by_number)
        if len(ids) != task.n_classes:
            raise UserError(
                f"fgvc: {home} has {len(ids)} classes in training, {task.name} has {task.n_classes}"
            )
        number = {key: place for place, key in enumerate(ids)}
        chosen = {"train": train, "val": val}.get(split) or _read(home / "test.json")
        for file, key in chosen.items():
            if key not in number:
                raise UserError(f"{home / 'test.json'}: class {key} of {file} is not among those of training")
        return PictureFiles(home / pictures, [(file, number[key]) for file, key in chosen.items()], self.size)

    def _training(self, home: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        train = _read(home / "train.json")
        if (home / "val.json").is_file():
            return train, _read(home / "val.json")
        files = sorted(train)
        order = numpy_generator(self.seed, self.name, home.name, "val").permutation(len(files))
        held = {files[place] for place in order[: max(1, round(VAL_SHARE * len(files)))]}
        return {f: k for f, k in train.items() if f not in held}, {
            f: k for f, k in train.items() if f in held
        }


def _by_number(key: Any) -> tuple[int, Any]:
    text = str(key)
    return (0, int(text)) if text.isdigit() else (1, text)


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise UserError(f"fgvc: {file} is missing")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{file}: no JSON ({error})") from None
    if not isinstance(found, dict) or not found:
        raise UserError(f"{file}: an object from a picture's file to its class is expected")
    return found
