"""Scale and shift after every operation (SSF)."""

from __future__ import annotations

from typing import Any

from torch import nn

from mmalign.config.fields import Section
from mmalign.tuners.anatomy import Anatomy
from mmalign.tuners.definition import Plan, Probe
from mmalign.tuners.tuner import SiteConfig

__all__ = ["SSF", "ScaleShift", "SsfOptions"]


class SsfOptions(Section):
    """Nothing to choose: every linear layer, convolution and norm outside the head."""


class ScaleShift:
    """``gamma * y + beta`` after every linear layer, convolution and norm; merges without a trace.

    Reference: Lian et al. 2022, arXiv 2210.08823.
    Differs from paper: starts exactly at the identity; a layer without bias is scaled only; the projections of
    ``nn.MultiheadAttention`` are inside its kernel and are left out.
    """

    name = "ssf"
    identity = True
    Options = SsfOptions

    def plan(self, anatomy: Anatomy, options: SsfOptions, probe: Probe | None) -> Plan:
        """A scale part per operation."""
        norms, sites = set(anatomy.norms()), {}
        for name, module in anatomy.modules.items():
            if isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear) or anatomy.is_head(name):
                continue
            if isinstance(module, nn.Linear | nn.Conv2d) or name in norms:
                sites[name] = [_scale(module)]
        return Plan(SiteConfig(peft_type="MMALIGN_HOOK", plan=sites))


def _scale(module: nn.Module) -> dict[str, Any]:
    channels_first = (
        isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.GroupNorm) or "2d" in type(module).__name__
    )
    shift = getattr(module, "bias", None) is not None
    axis = 1 if channels_first else -1
    return {"kind": "scale", "dim": module.get_parameter("weight").shape[0], "axis": axis, "shift": shift}


SSF = ScaleShift()
