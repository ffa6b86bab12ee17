"""The section of a tuner by name: what is attached to the policy, where, and with which options."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from mmalign.config.fields import PositiveCount, Section

__all__ = ["CONTAINER", "TunerConfig"]

CONTAINER = "mmalign_parts"
"""Where the parts of a tuner hang: a piece of the name of every tensor they hold."""


class TunerConfig(Section):
    """A tuner of ``mmalign list tuners`` on the policy (docs/tuners/); switched off it gives the reference."""

    name: str | None = None
    """Which; null attaches none (``model.lora_r`` is the short way to LoRA on the language model)."""
    scope: str = ""
    """The sub-module that is tuned, such as ``vision_tower``; empty is the whole model."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The tuner's own options."""
    modules_to_save: tuple[str, ...] = ()
    """Modules that train whole beside the tuner and are saved with it, by name."""
    probe_batch_size: PositiveCount = 8
    """Rows per minibatch, for tuners that look at data before they are attached."""
