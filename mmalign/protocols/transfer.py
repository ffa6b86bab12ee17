"""Suites of transfer tasks: small labelled data sets that one pretrained backbone is tuned to, one at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["IGNORE", "SPLITS", "TransferData", "TransferSuite", "TransferTask"]

SPLITS = ("train", "val", "test")
"""Settings are chosen on ``val`` after training on ``train``; the test is looked at once, after training on both."""
IGNORE = -1
"""Label of a pixel (or a picture) that counts nowhere."""


@dataclass(frozen=True, slots=True)
class TransferTask:
    """One task of a suite.

    Args:
        name: within the suite.
        group: whose mean enters the mean of group means (VTAB: natural, specialised, structured).
        kind: ``classes`` has one label per picture, ``pixels`` one per pixel.
        n_classes: labels run from 0 to ``n_classes - 1``.
    """

    name: str
    group: str
    kind: Literal["classes", "pixels"]
    n_classes: int


@runtime_checkable
class TransferData(Protocol):
    """A map-style data set: what ``torch.utils.data`` calls a ``Dataset`` with a length."""

    def __len__(self) -> int:
        """Number of pictures."""
        ...

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """A picture ``[C, H, W]``, float32 in [0, 1], not normalised, and its label, int64.

        The label is ``[]`` for ``classes`` and ``[H, W]`` for ``pixels``; ``IGNORE`` marks what does not count.
        """
        ...


@runtime_checkable
class TransferSuite(Protocol):
    """A benchmark of transfer (entry points ``mmalign.transfer``).

    What is registered is called with the suite's options as keywords (a folder, a picture size) and returns the suite:
    a class will do.
    """

    name: str
    backbone: str
    """The backbone tuned where none is named, as ``mmalign.tuners.backbones.load_backbone`` takes it."""

    def tasks(self) -> tuple[TransferTask, ...]:
        """The tasks in the order they are reported in."""
        ...

    def data(self, task: TransferTask, split: str) -> TransferData:
        """The pictures of one of ``SPLITS``; the same at every call.

        Raises:
            UserError: for an unknown split, or files that are missing or malformed.
        """
        ...
