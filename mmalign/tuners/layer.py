"""The one layer behind every tuner here: it stands in the place of a module and holds parts per adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn

from mmalign.config.tuner import CONTAINER
from mmalign.tuners.parts import Inner, Part, make_part

__all__ = ["SiteLayer"]


class SiteLayer(nn.Module, BaseTunerLayer):
    """Calls its module through the parts of the active adapters: the first part is the innermost.

    Attributes of the module stay readable through the layer.  Switched off or merged it is the module itself.

    Args:
        base_layer: the module.
        owner: the model below the scope; parts that merge into one of its own parameters (a class token) need it.
    """

    adapter_layer_names = (CONTAINER,)
    other_param_names = ()

    def __init__(self, base_layer: nn.Module, owner: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.mmalign_parts = nn.ModuleDict()
        self.merged_adapters: list[str] = []
        self._owner = (owner,)
        self._originals: list[tuple[nn.Parameter, Tensor]] = []

    def __getattr__(self, name: str) -> Any:
        """Attributes of the module, where the layer has none of that name."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer":
                raise
            return getattr(super().__getattr__("base_layer"), name)

    def add(self, adapter: str, specs: Sequence[Mapping[str, Any]], tuner: str | None) -> None:
        """Build the parts of ``specs`` for ``adapter``."""
        base = self.get_base_layer()
        self.mmalign_parts[adapter] = nn.ModuleList([make_part(base, spec, tuner) for spec in specs])

    def parts(self, adapters: Sequence[str] | None = None) -> list[Part]:
        """The parts of the active (or the named) adapters, innermost first."""
        names = self.active_adapters if adapters is None else adapters
        held: Any = self.mmalign_parts
        return [part for name in names if name in held for part in held[name]]

    def _forward(self, *args: Any, **options: Any) -> Any:
        call: Inner = lambda given, named: self.base_layer(*given, **named)  # noqa: E731
        if not self.disable_adapters and not self.merged:
            for part in self.parts():
                call = _around(part, call)
        elif self.merged and self.disable_adapters:
            self.unmerge()
        return call(args, options)

    forward = _forward

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Fold the parts into the module; :meth:`unmerge` brings the old numbers back bit for bit.

        Raises:
            UserError: for a part that cannot be merged.
            ValueError: with ``safe_merge``, where the sum is not finite.
        """
        names = check_adapters_to_merge(self, adapter_names)
        base, owner = self.get_base_layer(), self._owner[0]
        touched = [*base.parameters(), *(owner.parameters(recurse=False) if owner is not base else ())]
        before = [(parameter, parameter.data.clone()) for parameter in touched]
        with torch.no_grad():
            for part in self.parts(names):
                part.merge(base, owner)
        if safe_merge and not all(bool(torch.isfinite(parameter).all()) for parameter in touched):
            for parameter, old in before:
                parameter.data.copy_(old)
            raise ValueError("the merged weights are not finite; the adapter is broken")
        changed = [(parameter, old) for parameter, old in before if not torch.equal(parameter.data, old)]
        self._originals += changed
        self.merged_adapters += [name for name in names if name in self.mmalign_parts]

    def unmerge(self) -> None:
        """Give the module its own numbers back."""
        for parameter, old in reversed(self._originals):
            parameter.data.copy_(old)
        self._originals.clear()
        self.merged_adapters.clear()


def _around(part: Part, inner: Inner) -> Inner:
    return lambda args, options: part(inner, args, options)
