"""The peft side: configuration, injection, saving and loading of site adapters, registered by string keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import peft
from peft import PeftConfig, mapping
from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from mmalign.config.tuner import CONTAINER
from mmalign.errors import UserError
from mmalign.tuners.layer import SiteLayer

__all__ = ["DeltaTuner", "HookTuner", "SideTuner", "SiteConfig", "SiteTuner", "register_tuner", "target_of"]

ROOT = ""
"""The plan's key of the whole model."""


@dataclass
class SiteConfig(PeftConfig):
    """What an adapter consists of, site by site; plain JSON in ``adapter_config.json``.

    Args:
        plan: full module name -> list of parts, innermost first; ``""`` is the whole model.
        tuner: the registered name that made the plan; its plug-in is imported where a kind of part is unknown.
        scope: the sub-module that was tuned, ``""`` for the whole model.
        modules_to_save: modules that train and are saved whole beside the parts (a new head).
    """

    plan: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    tuner: str = ""
    scope: str = ""
    target_modules: None = None
    modules_to_save: list[str] | None = None

    def parts_of(self, key: str) -> list[dict[str, Any]]:
        """The parts planned for the module ``key``."""
        return self.plan.get(key, [])


class SiteTuner(BaseTuner):
    """Puts a :class:`SiteLayer` where the plan says.  Works on any model; nested sites are allowed."""

    prefix = CONTAINER
    tuner_layer_cls = SiteLayer
    target_module_mapping: dict[str, Any] = {}  # noqa: RUF012
    allowed: tuple[str, ...] | None = None
    """Kinds of parts that this tuner takes; ``None`` takes every kind."""

    def _prepare_adapter_config(self, peft_config: PeftConfig, model_config: dict[str, Any]) -> PeftConfig:
        return peft_config

    def _check_new_adapter_config(self, config: PeftConfig) -> None:
        super()._check_new_adapter_config(config)
        assert isinstance(config, SiteConfig)
        kinds = sorted({part["kind"] for parts in config.plan.values() for part in parts})
        if self.allowed is not None and (wrong := [kind for kind in kinds if kind not in self.allowed]):
            raise UserError(
                f"{type(self).__name__} holds {', '.join(self.allowed)} parts only, not {wrong[0]}"
            )
        modules = dict(self.model.named_modules())
        if lost := [key for key in config.plan if _plain(key) not in {_plain(name) for name in modules}]:
            raise UserError(f'the adapter\'s plan names "{lost[0]}", which this model does not have')

    @staticmethod
    def _check_target_module_exists(peft_config: PeftConfig, key: str) -> bool:
        return bool(key) and isinstance(peft_config, SiteConfig) and _plain(key) in peft_config.plan

    def _create_and_replace(
        self,
        peft_config: PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        assert isinstance(peft_config, SiteConfig)
        specs = peft_config.parts_of(_plain(current_key))
        if isinstance(target, SiteLayer):
            target.add(adapter_name, specs, peft_config.tuner)
            return
        layer = SiteLayer(target, target_of(self.model, peft_config.scope))
        layer.add(adapter_name, specs, peft_config.tuner)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        home = parent.get_base_layer() if isinstance(parent, SiteLayer) else parent
        setattr(home, target_name, layer)

    def _post_injection_hook(self, model: nn.Module, config: PeftConfig, adapter_name: str) -> None:
        assert isinstance(config, SiteConfig)
        specs = config.parts_of(ROOT)
        if not specs:
            return
        root = self.model if isinstance(self.model, SiteLayer) else SiteLayer(self.model, self.model)
        root.add(adapter_name, specs, config.tuner)
        root.set_adapter(self.active_adapters, inference_mode=config.inference_mode)
        self.model = root

    def _check_merge_allowed(self) -> None:
        super()._check_merge_allowed()
        for layer in self.model.modules():
            for part in layer.parts() if isinstance(layer, SiteLayer) else ():
                if not part.mergeable:
                    part.merge(layer.get_base_layer(), layer.get_base_layer())

    def _unload_and_optionally_merge(  # type: ignore[override]
        self,
        merge: bool = True,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> nn.Module:
        if merge:
            self._check_merge_allowed()
        for key, layer in reversed(list(self.model.named_modules())):
            if isinstance(layer, SiteLayer):
                if merge:
                    layer.merge(safe_merge=safe_merge, adapter_names=adapter_names)
                parent, _, name = key.rpartition(".")
                if key:
                    setattr(self.model.get_submodule(parent), name, layer.base_layer)
                else:
                    self.model = layer.base_layer
        bare: Any = super()._unload_and_optionally_merge(merge, progressbar, safe_merge, adapter_names)  # type: ignore[func-returns-value]
        return bare

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        marked = f".{CONTAINER}.{adapter_name}."
        if marked in key:
            return key.replace(marked, f".{CONTAINER}.")
        return super()._remove_adapter_name_from_key(key, adapter_name)


class DeltaTuner(SiteTuner):
    """Changes of weights only (sparse, low rank, whole vectors): always merges, adapter off is the model itself."""

    allowed = ("delta", "token")


class HookTuner(SiteTuner):
    """Modules at activation sites, beside changes of weights."""


class SideTuner(SiteTuner):
    """A network beside the whole model that reads features kept at sites; never merges."""


def register_tuner(peft_type: str, tuner: type[BaseTuner], config: type[PeftConfig] = SiteConfig) -> None:
    """Make a tuner known to peft under a string of its own, as ``peft_type`` of its configuration.

    peft's own registration takes members of a closed enum only; its mappings take any string
    (``peft/mapping.py``, read in 0.21.2 and pinned by tests/tuners/test_registration.py).

    Raises:
        UserError: when the name is taken by another tuner, or this peft has no such mappings.
    """
    tables = ("PEFT_TYPE_TO_CONFIG_MAPPING", "PEFT_TYPE_TO_TUNER_MAPPING", "PEFT_TYPE_TO_PREFIX_MAPPING")
    if missing := [name for name in tables if not hasattr(mapping, name)]:
        raise UserError(f"peft {peft.__version__} has no {missing[0]}: install peft==0.21.2")
    prefix = getattr(tuner, "prefix", CONTAINER)
    for name, value in zip(tables, (config, tuner, prefix), strict=True):
        known = getattr(mapping, name).setdefault(peft_type, value)
        if known is not value and known != value:
            raise UserError(f"{peft_type}: this peft_type is taken by {known}")


def target_of(model: nn.Module, scope: str) -> nn.Module:
    """The sub-module named ``scope`` of a model (layers of adapters in between are looked through)."""
    found = model.get_submodule(scope) if scope else model
    return found.get_base_layer() if isinstance(found, SiteLayer) else found


def _plain(key: str) -> str:
    return ".".join(piece for piece in key.split(".") if piece != "base_layer")


for _name, _tuner in (
    ("MMALIGN_DELTA", DeltaTuner),
    ("MMALIGN_HOOK", HookTuner),
    ("MMALIGN_SIDE", SideTuner),
):
    register_tuner(_name, _tuner)
