"""Metrics to Weights & Biases; the key comes from its own login or ``WANDB_API_KEY``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from mmalign.track.missing import require

__all__ = ["WandbTracker"]


class WandbTracker:
    """Mirrors metrics to one W&B run per run folder; a resumed run goes on in it.

    Stages count their steps from 1 each, so every stage has a step metric of its own.

    Raises:
        UserError: when wandb is not installed.
    """

    def __init__(self, run_dir: Path) -> None:
        wandb = require("wandb", "wandb", "wandb")
        identity = hashlib.sha256(str(run_dir.resolve()).encode()).hexdigest()[:12]
        self._run = wandb.init(
            project="mmalign", name=run_dir.name, id=identity, dir=str(run_dir), resume="allow"
        )
        self._stages: set[str] = set()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record the metrics of one step; names are ``stage/metric``."""
        stages = {name.partition("/")[0] for name in metrics}
        for stage in sorted(stages - self._stages):
            self._run.define_metric(f"{stage}/step")
            self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
            self._stages.add(stage)
        self._run.log({**metrics, **{f"{stage}/step": step for stage in stages}})

    def close(self) -> None:
        """Flush and close."""
        self._run.finish()
