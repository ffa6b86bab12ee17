"""The section of stage ``transfer``: a pretrained backbone, a tuner, and a suite of small supervised tasks."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from mmalign.config.fields import Bool, Count, Int, NonNegative, Positive, PositiveCount, Section, Share
from mmalign.config.tuner import TunerConfig

__all__ = ["DRTuneConfig", "TransferConfig"]


class DRTuneConfig(Section):
    """DR-Tune: the head must classify the pretrained model's features too (docs/tuners/dr_tune.md)."""

    queue: Count = 0
    """Features kept; 0 switches it off."""
    calibration: Literal["rotated", "none", "shuffled"] = "rotated"
    """How pretrained features are brought up to date: turned and shifted as in the paper; ``none`` and ``shuffled``
    (calibrated, then dealt out to other labels) are controls."""


class TransferConfig(Section):
    """Supervised transfer, task after task: rates are chosen on validation, the test split is looked at once."""

    suite: str = "mini-vtab"
    """The tasks (``mmalign list transfer``)."""
    suite_options: dict[str, Any] = Field(default_factory=dict)
    """The suite's own options, such as where its pictures lie."""
    backbone: str | None = None
    """The pretrained model: a shipped one by name (``mmalign list backbones``), ``timm:NAME``, ``timm:NAME?pretrained``
    or ``local:FOLDER``; null is the suite's own."""
    tasks: tuple[str, ...] = ()
    """Some of the suite's tasks, by name; empty is all."""
    tuner: TunerConfig = TunerConfig(name="linear")
    """A tuner of ``mmalign list tuners``; or ``linear`` (the head alone) or ``full`` (every weight)."""
    layer_decay: Share = 1.0
    """With ``full``: the rate falls by this factor from block to block, head to stem."""
    freeze_below: Count = 0
    """With ``full``: so many blocks from the stem on stay as they are; 0 freezes nothing."""
    reinitialise: Count = 0
    """With ``full``: so many of the last blocks are drawn anew."""
    dr_tune: DRTuneConfig = DRTuneConfig()
    """With ``full``: DR-Tune."""
    learning_rates: tuple[Positive, ...] = (1e-3, 3e-3, 1e-2)
    """Tried on each task: trained on its 800, measured on its 200 for validation; one rate is not tried at all."""
    selection_seed: Int | None = None
    """Seed of those trials; null is the run's own.  Runs that share it choose the same rates."""
    selection_dir: str | None = None
    """Where chosen rates are kept for runs that differ in the seed alone (needs ``selection_seed``); a relative path
    counts from the run folder."""
    epochs: PositiveCount = 10
    """Passes over the training pictures."""
    batch_size: PositiveCount = 50
    """Pictures per step."""
    weight_decay: NonNegative = 1e-4
    """AdamW's."""
    warmup_ratio: Share = 0.1
    """Share of the steps over which the rate rises from 0; it falls to a tenth along a cosine afterwards."""
    save_models: Bool = False
    """Keep every task's final weights (all of them, adapters inside) below ``stages/transfer/models``."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        policies = {
            "layer_decay": self.layer_decay != 1.0,
            "freeze_below": self.freeze_below > 0,
            "reinitialise": self.reinitialise > 0,
            "dr_tune": self.dr_tune.queue > 0,
        }
        asked = next((name for name, wanted in policies.items() if wanted), None)
        if asked is not None and self.tuner.name != "full":
            raise ValueError(f"{asked}: goes with tuner.name full, not with {self.tuner.name}")
        if self.tuner.name is None:
            raise ValueError("tuner.name: name a tuner, linear or full")
        if not self.learning_rates:
            raise ValueError("learning_rates: give at least one")
        if self.selection_dir is not None and self.selection_seed is None:
            raise ValueError("selection_dir: chosen rates are shared by seeds; set selection_seed too")
        return self
