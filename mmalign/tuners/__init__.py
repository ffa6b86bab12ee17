"""Parameter-efficient tuners on top of peft: plans of parts at sites, saved and loaded by peft itself.

Importing this package makes its adapters known to ``peft.PeftModel.from_pretrained``.
"""

from __future__ import annotations

from mmalign.tuners import adapters as adapters
from mmalign.tuners import delta as delta
from mmalign.tuners import tokens as tokens
from mmalign.tuners.definition import (
    Plan,
    Probe,
    Tuner,
    attach,
    declared_count,
    is_mergeable,
    part_states,
    trainable_count,
)
from mmalign.tuners.hst import part as part
from mmalign.tuners.parts import Part, register_part
from mmalign.tuners.tuner import DeltaTuner, HookTuner, SideTuner, SiteConfig, register_tuner

__all__ = [
    "DeltaTuner",
    "HookTuner",
    "Part",
    "Plan",
    "Probe",
    "SideTuner",
    "SiteConfig",
    "Tuner",
    "attach",
    "declared_count",
    "is_mergeable",
    "part_states",
    "register_part",
    "register_tuner",
    "trainable_count",
]
