"""Metrics to TensorBoard event files in ``<run>/tensorboard``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mmalign.track.missing import require

__all__ = ["TensorBoardTracker"]


class TensorBoardTracker:
    """Mirrors metrics to event files; look at them with ``tensorboard --logdir runs``.

    Raises:
        UserError: when tensorboard is not installed.
    """

    def __init__(self, run_dir: Path) -> None:
        require("tensorboard", "tensorboard", "tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(log_dir=str(run_dir / "tensorboard"))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record the metrics of one step."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()
