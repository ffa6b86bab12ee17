"""What a tuner is: a name, options, and a plan for a model; attaching one, counting it, asking whether it merges."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from pydantic import ValidationError
from torch import Tensor, nn

from mmalign import registry
from mmalign.config.fields import Section
from mmalign.errors import UserError, nearest
from mmalign.rng import derive_seed
from mmalign.tuners.anatomy import Anatomy, scoped
from mmalign.tuners.layer import SiteLayer
from mmalign.tuners.parts import part_class
from mmalign.tuners.tuner import SiteConfig

__all__ = [
    "Plan",
    "Probe",
    "Tuner",
    "attach",
    "declared_count",
    "is_mergeable",
    "part_states",
    "required",
    "trainable_count",
]

Probe = Callable[[nn.Module], Iterable[Tensor]]
"""Gives the loss (a scalar with gradient) of one minibatch after another; some tuners look at data before they plan."""


@dataclass(frozen=True)
class Plan:
    """What a tuner wants attached.

    Args:
        config: a peft configuration: :class:`~mmalign.tuners.tuner.SiteConfig`, or one of peft's own.
        state: tensors of the parts to start from, as ``module -> {"<number of part>.<tensor>": value}``.
        settle: called with the attached model, for what peft does only then.
    """

    config: PeftConfig
    state: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    settle: Callable[[PeftModel], None] | None = None


class Tuner(Protocol):
    """A parameter-efficient tuner under a name (entry points ``mmalign.tuners``).

    One that answers in the place of the model's head sets ``answers = True`` and takes an option ``classes``.
    """

    name: str
    identity: bool
    """Whether the model's outputs are unchanged at the start."""
    Options: type[Section]
    """Its options, each with its meaning and unit."""

    def plan(self, anatomy: Anatomy, options: Any, probe: Probe | None) -> Plan:
        """What to attach where; a tuner that looks at data asks :func:`required` for ``probe``."""
        ...


def required(probe: Probe | None, name: str) -> Probe:
    """``probe``, which the tuner ``name`` cannot do without.

    Raises:
        UserError: where there is none.
    """
    if probe is None:
        raise UserError(f"tuner {name}: looks at data before it is attached; give attach(..., probe=losses)")
    return probe


def attach(
    model: nn.Module,
    name: str,
    options: Mapping[str, Any] | None = None,
    *,
    scope: str = "",
    seed: int = 0,
    probe: Probe | None = None,
    modules_to_save: Iterable[str] = (),
) -> PeftModel:
    """Freeze ``model`` and attach the tuner called ``name`` below ``scope``; only what it brings trains.

    Args:
        model: is changed in place.
        name: a registered tuner (``mmalign list tuners``).
        options: of the tuner; unknown keys are refused.
        scope: a sub-module such as ``vision_tower`` or ``visual``; empty is the whole model.
        seed: draws what starts random.
        probe: losses on minibatches, for tuners that look at data first.
        modules_to_save: modules that train whole beside the tuner (a new head), by full name.

    Raises:
        UserError: for an unknown name, option or scope, a model that does not fit, or a missing probe.
    """
    tuner: Tuner = registry.load("tuners", name)
    anatomy = scoped(model, scope)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "tuner", name))
        plan = tuner.plan(anatomy, _options(tuner, options or {}), probe)
        config = plan.config
        if isinstance(config, SiteConfig):
            config.tuner, config.scope = name, anatomy.scope
        saved = sorted({*(getattr(config, "modules_to_save", None) or ()), *modules_to_save})
        config.modules_to_save = saved or None  # type: ignore[attr-defined]
        tuned = get_peft_model(model, config)
        for key, state in plan.state.items():
            _fill(tuned, key, state)
        if plan.settle is not None:
            plan.settle(tuned)
    return tuned


def declared_count(model: nn.Module, config: SiteConfig) -> int:
    """Trainable numbers of a plan by the formulas of its parts, on the bare ``model``."""
    return sum(
        part_class(spec["kind"], config.tuner).count(model.get_submodule(key) if key else model, spec)
        for key, specs in config.plan.items()
        for spec in specs
    )


def trainable_count(model: nn.Module) -> int:
    """Numbers with ``requires_grad``."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def is_mergeable(model: nn.Module) -> bool:
    """Whether the active adapter, of this package or peft's own, can be folded into the weights."""
    for layer in model.modules():
        if isinstance(layer, SiteLayer):
            if not all(part.mergeable for part in layer.parts()):
                return False
        elif isinstance(layer, BaseTunerLayer) and type(layer).merge is BaseTunerLayer.merge:
            return False
    return True


def part_states(model: nn.Module) -> dict[str, SiteLayer]:
    """Every site of an attached model by the name of its module in the bare model."""
    found = {}
    for name, layer in model.named_modules():
        if isinstance(layer, SiteLayer):
            pieces = [piece for piece in name.removeprefix("base_model.model").split(".") if piece]
            found[".".join(piece for piece in pieces if piece != "base_layer")] = layer
    return found


def _fill(tuned: PeftModel, key: str, state: Mapping[str, Tensor]) -> None:
    layer = part_states(tuned)[key]
    own = {
        **dict(layer.mmalign_parts["default"].named_parameters()),
        **dict(layer.mmalign_parts["default"].named_buffers()),
    }
    with torch.no_grad():
        for name, value in state.items():
            own[name].copy_(value)


def _options(tuner: Tuner, given: Mapping[str, Any]) -> Section:
    try:
        return tuner.Options(**given)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(piece) for piece in first["loc"])
        near = nearest(key, tuner.Options.model_fields) if first["type"] == "extra_forbidden" else ""
        raise UserError(f"tuner {tuner.name}: option {key}: {first['msg']}{near}") from None
