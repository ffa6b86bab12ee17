"""Metrics to trackio, a local dashboard with W&B's calls."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mmalign.track.missing import require

__all__ = ["TrackioTracker"]


class TrackioTracker:
    """Mirrors metrics to a trackio run named after the run folder; see them with ``trackio show``.

    Raises:
        UserError: when trackio is not installed.
    """

    def __init__(self, run_dir: Path) -> None:
        self._trackio = require("trackio", "trackio", "trackio")
        self._trackio.init(project="mmalign", name=run_dir.name, resume="allow")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record the metrics of one step; the stage's own step stands beside them."""
        stages = {name.partition("/")[0] for name in metrics}
        self._trackio.log({**metrics, **{f"{stage}/step": step for stage in stages}})

    def close(self) -> None:
        """Flush and close."""
        self._trackio.finish()
