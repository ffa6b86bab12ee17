"""``mini-vtab``: nineteen generated tasks in the three groups of VTAB, at 24 x 24 pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from mmalign.benchmarks.transfer.arrays import Arrays, Made, check_split
from mmalign.benchmarks.transfer.natural import DIGITS, NATURAL, digit_order
from mmalign.benchmarks.transfer.specialised import SPECIALISED
from mmalign.benchmarks.transfer.structured import STRUCTURED
from mmalign.protocols.transfer import TransferTask
from mmalign.rng import numpy_generator

__all__ = ["GROUPS", "SIZES", "MiniVTAB"]

GROUPS: Mapping[str, Mapping[str, tuple[int, Callable[..., Made]]]] = {
    "natural": NATURAL,
    "specialised": SPECIALISED,
    "structured": STRUCTURED,
}
"""Seven, four and eight tasks."""
SIZES: Mapping[str, int] = {"train": 800, "val": 200, "test": 1000}
"""Pictures per split; the digits have the 797 that are left for the test."""
_DIGIT_PARTS = {"train": slice(0, 800), "val": slice(800, 1000), "test": slice(1000, DIGITS)}


class MiniVTAB:
    """Nineteen tasks whose pictures are drawn from named streams: the same at every run.

    Reference: Zhai et al. 2019, arXiv 1910.04867 (VTAB-1k: groups, sizes, and what each task stands for).

    Args:
        seed: draws all pictures; 0 is the suite, others are replicas of it.
    """

    name = "mini-vtab"
    backbone = "mini-vit"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def tasks(self) -> tuple[TransferTask, ...]:
        """Natural, then specialised, then structured tasks."""
        return tuple(
            TransferTask(name, group, "classes", classes)
            for group, members in GROUPS.items()
            for name, (classes, _) in members.items()
        )

    def data(self, task: TransferTask, split: str) -> Arrays:
        """The pictures of a split, drawn at each call.

        Raises:
            UserError: for an unknown split, or scikit-learn missing (digits).
        """
        check_split(self.name, split)
        _, draw = GROUPS[task.group][task.name]
        rng = numpy_generator(self.seed, self.name, task.name, split)
        if task.name.startswith("digit"):
            images, labels = draw(digit_order(self.seed, task.name)[_DIGIT_PARTS[split]], rng)
        else:
            images, labels = draw(SIZES[split], rng)
        return Arrays(images, labels.astype(np.int64))
