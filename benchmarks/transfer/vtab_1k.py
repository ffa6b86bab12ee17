"""``vtab-1k``: the nineteen official tasks from the folders that papers on visual tuning share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mmalign.benchmarks.transfer.arrays import check_split
from mmalign.benchmarks.transfer.pictures import PictureFiles, folder_named
from mmalign.errors import UserError
from mmalign.protocols.transfer import TransferTask

__all__ = ["FILES", "TASKS", "VTAB1k", "read_list"]

TASKS: Mapping[str, Mapping[str, int]] = {
    "natural": {
        "cifar": 100,
        "caltech101": 102,
        "dtd": 47,
        "oxford_flowers102": 102,
        "oxford_iiit_pet": 37,
        "svhn": 10,
        "sun397": 397,
    },
    "specialised": {
        "patch_camelyon": 2,
        "eurosat": 10,
        "resisc45": 45,
        "diabetic_retinopathy": 5,
    },
    "structured": {
        "clevr_count": 8,
        "clevr_dist": 6,
        "dmlab": 6,
        "kitti": 4,
        "dsprites_loc": 16,
        "dsprites_ori": 16,
        "smallnorb_azi": 18,
        "smallnorb_ele": 9,
    },
}
"""Group -> folder -> number of classes, in the order the papers' tables have."""
FILES: Mapping[str, str] = {"train": "train800.txt", "val": "val200.txt", "test": "test.txt"}
"""List of each split; ``train800val200.txt`` is the first two after one another and is not read."""


class VTAB1k:
    """Folders ``<folder>/<task>/`` with lists of lines ``path label``, paths relative to the task's folder.

    Reference: Zhai et al. 2019, arXiv 1910.04867.
    Differs from common code: rates are chosen on ``val200.txt``; there the best epoch on the test is often reported.

    Args:
        folder: that holds the tasks' folders.
        size: pictures are resized to, in pixels.

    Raises:
        UserError: where ``folder`` is none.
    """

    name = "vtab-1k"
    backbone = "timm:vit_base_patch16_224.augreg_in21k?pretrained"

    def __init__(self, folder: str, size: int = 224) -> None:
        self.folder, self.size = Path(folder), size
        if not self.folder.is_dir():
            raise UserError(f"vtab-1k: {folder} is no folder")

    def tasks(self) -> tuple[TransferTask, ...]:
        """All nineteen, whether their folders are there or not."""
        return tuple(
            TransferTask(name, group, "classes", classes)
            for group, members in TASKS.items()
            for name, classes in members.items()
        )

    def data(self, task: TransferTask, split: str) -> PictureFiles:
        """The pictures of a list.

        Raises:
            UserError: for a missing folder, list or picture, or a line that is not ``path label``.
        """
        check_split(self.name, split)
        home = folder_named(self.folder, (task.name,), self.name)
        return PictureFiles(home, read_list(home / FILES[split], task.n_classes), self.size)


def read_list(file: Path, n_classes: int) -> list[tuple[str, int]]:
    """Lines ``path label`` of a list; a path may hold spaces.

    Raises:
        UserError: for a missing or empty file, or the first line that is malformed or has a label out of range.
    """
    if not file.is_file():
        raise UserError(f"vtab-1k: {file} is missing")
    items = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        name, _, label = line.strip().rpartition(" ")
        if not name or not label.isdigit():
            raise UserError(f"{file}:{number}: a line is a path, a space and a label, not {line.strip()!r}")
        if int(label) >= n_classes:
            raise UserError(f"{file}:{number}: label {label}, but the task has {n_classes} classes")
        items.append((name, int(label)))
    if not items:
        raise UserError(f"vtab-1k: {file} is empty")
    return items
