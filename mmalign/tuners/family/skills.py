"""Polytropon and multi-head routing through peft: skills shared by tasks, and what follows for a new task."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig, PeftModel, PolyConfig, get_peft_model
from peft.tuners.poly import PolyModel
from peft.tuners.poly.layer import PolyLayer
from torch import Tensor, nn

from mmalign.config.fields import PositiveCount, Section
from mmalign.errors import UserError
from mmalign.tuners.anatomy import Anatomy
from mmalign.tuners.definition import Plan, Probe
from mmalign.tuners.family.low_rank import projections

__all__ = ["POLY", "Poly", "PolyOptions", "for_tasks", "mean_skill", "router_only"]


class PolyOptions(Section):
    """Skills and how they are shared."""

    r: PositiveCount = 8
    """Rank of each skill."""
    tasks: PositiveCount = 2
    """Tasks that share the skills."""
    skills: PositiveCount = 4
    """Skills per layer."""
    splits: PositiveCount = 1
    """Blocks of columns and rows that are routed apart; above 1 it is multi-head routing."""


class Poly:
    """Every task mixes low-rank skills by a routing of its own; with ``splits`` above 1 per block (MHR).

    Equation: ``W x + (1 / r) B_t A_t x``, ``A_t`` block ``h`` ``= sum_s z_{t,h,s} A_s^h``.  Call the model inside
    :func:`for_tasks`.

    Reference: Ponti et al. 2023, arXiv 2202.13914; Caccia et al. 2023, arXiv 2211.03831 (MHR).
    """

    name = "poly"
    identity = True
    Options = PolyOptions

    def plan(self, anatomy: Anatomy, options: PolyOptions, probe: Probe | None) -> Plan:
        """peft's own ``PolyConfig``.

        Raises:
            UserError: for a backbone whose layers do not read tokens ``[B, N, D]``, or widths that do not divide.
        """
        windows = any(hasattr(anatomy.modules[block.name], "window_size") for block in anatomy.blocks)
        if windows or not all(block.is_attention for block in anatomy.blocks):
            raise UserError("poly: peft's layer needs tokens [B, N, D], not windows or convolutions")
        layers = projections(anatomy)
        for name, layer in layers:
            if layer.in_features % options.splits or layer.out_features % options.splits:
                raise UserError(
                    f"poly: {name} ({layer.in_features} to {layer.out_features}) does not divide by {options.splits}"
                )
        config = PolyConfig(
            r=options.r,
            target_modules=[name for name, _ in layers],
            n_tasks=options.tasks,
            n_skills=options.skills,
            n_splits=options.splits,
        )
        return Plan(config)


@contextmanager
def for_tasks(model: PeftModel, tasks: Tensor) -> Iterator[None]:
    """Have the calls inside the block belong to ``tasks`` ``[B]``, one number per row.

    Raises:
        UserError: for a model without skills.
    """
    tuner = model.base_model
    if not isinstance(tuner, PolyModel):
        raise UserError("for_tasks: the model carries no skills (tuner poly)")
    with tuner._manage_pre_hooks(tasks):
        yield


def router_only(model: nn.Module) -> None:
    """Freeze the skills and train the routing alone (MHR-z)."""
    for name, parameter in model.named_parameters():
        if ".poly_lora_" in name:
            parameter.requires_grad_(False)


def mean_skill(model: PeftModel, base: nn.Module) -> PeftModel:
    """The mean of all skills as one plain LoRA on ``base``, to go on from for a new task (MHR-mu).

    Args:
        model: trained with the tuner ``poly``.
        base: the bare model; is changed in place.
    """
    layers: dict[str, Any] = {
        n: m for n, m in model.get_base_model().named_modules() if isinstance(m, PolyLayer)
    }
    if not layers:
        raise UserError("mean_skill: the model carries no skills (tuner poly)")
    first = next(iter(layers.values()))
    made = get_peft_model(base, LoraConfig(r=first.r["default"], lora_alpha=1, target_modules=list(layers)))
    with torch.no_grad():
        for name, layer in layers.items():
            target: Any = made.get_base_model().get_submodule(name)
            a, b = layer.poly_lora_A["default"].mean(1), layer.poly_lora_B["default"].mean(1)
            target.lora_A["default"].weight.copy_(a.reshape(-1, a.shape[-1]).T)
            target.lora_B["default"].weight.copy_(b.transpose(1, 2).reshape(-1, b.shape[1]))
    return made


POLY = Poly()
