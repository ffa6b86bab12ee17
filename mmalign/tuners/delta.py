"""Changes of weights: sparse picks, whole vectors and low-rank blocks at one module, and a change of a token."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from mmalign.tuners.parts import Inner, Part, first_input, register_part, with_first
from mmalign.tuners.sparse import scattered, sparse_linear

__all__ = ["DeltaPart", "LowRank", "TokenPart", "plain_name"]


def plain_name(name: str) -> str:
    """A parameter's name as a key of a module dictionary, which may hold no dot."""
    return name.replace(".", "-")


def _trained(like: Tensor) -> torch.dtype:
    """At least float32: what trains is never kept in half precision."""
    return torch.promote_types(like.dtype, torch.float32)


class LowRank(nn.Module):
    """``scale * B A`` for the rows ``start:stop`` of a matrix; with ``offset`` ``scale * (B A - B0 A0)``.

    ``A`` is drawn as by LoRA (Kaiming, a = sqrt 5) and ``B`` is 0.  With an offset the pair may start anywhere
    (PiSSA, CorDA): what it starts from is taken off again, so the model below is never changed and stays the
    reference; the sum is a plain LoRA of twice the rank.
    """

    A0: Tensor
    B0: Tensor

    def __init__(self, wide: int, spec: Mapping[str, Any], like: Tensor, scale: float) -> None:
        super().__init__()
        r, tall = int(spec["r"]), int(spec["stop"]) - int(spec["start"])
        self.start, self.stop, self.scale = int(spec["start"]), int(spec["stop"]), scale
        self.A = nn.Parameter(torch.empty(r, wide, dtype=_trained(like)))
        self.B = nn.Parameter(torch.zeros(tall, r, dtype=_trained(like)))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.offset = bool(spec.get("offset"))
        if self.offset:
            self.register_buffer("A0", self.A.detach().clone())
            self.register_buffer("B0", self.B.detach().clone())

    def delta(self) -> Tensor:
        """The change of the rows, ``[stop - start, n]``."""
        change = self.B @ self.A
        return self.scale * (change - self.B0 @ self.A0 if self.offset else change)

    def forward(self, x: Tensor) -> Tensor:
        """The change of the output, ``[..., stop - start]``."""
        out = F.linear(F.linear(x, self.A), self.B)
        if self.offset:
            out = out - F.linear(F.linear(x, self.A0), self.B0)
        return self.scale * out

    def factors(self) -> tuple[Tensor, Tensor]:
        """``(A, B)`` of a plain LoRA with scale 1 that equals this one."""
        a, b = self.A.detach(), self.scale * self.B.detach()
        if not self.offset:
            return a, b
        return torch.cat([a, self.A0]), torch.cat([b, -self.scale * self.B0], dim=1)


@register_part
class DeltaPart(Part):
    """A change of a module's own parameters, by its plan: which entries, which rows at which rank.

    Plan entry: ``{"kind": "delta", "params": {name: {"k": picks or "all", "blocks": [{"start", "stop", "r"}]}},
    "scale", "dropout", "drop_path"}``.  Picks start at 0 and are flat positions kept with the weights; ``dropout``
    acts on the input of low-rank blocks and ``drop_path`` drops their output per sample, where the module is linear.
    """

    kind = "delta"
    mergeable = True

    def __init__(self, base: nn.Module, spec: Mapping[str, Any]) -> None:
        super().__init__(base, spec)
        self.values = nn.ParameterDict()
        self.low = nn.ModuleDict()
        self._base = (base,)
        self._indices: dict[str, str] = {}
        for name, entry in spec["params"].items():
            weight, key = base.get_parameter(name), plain_name(name)
            picks = entry.get("k", 0)
            if picks == "all":
                self.values[key] = nn.Parameter(torch.zeros(weight.shape, dtype=_trained(weight)))
            elif picks:
                self.values[key] = nn.Parameter(torch.zeros(picks, dtype=_trained(weight)))
                self._indices[key] = f"indices_{key}"
                self.register_buffer(f"indices_{key}", torch.arange(picks))
            if entry.get("blocks"):
                scale = float(spec.get("scale", 1.0))
                blocks = [LowRank(weight.shape[1], block, weight, scale) for block in entry["blocks"]]
                self.low[key] = nn.ModuleList(blocks)
        self.dropout = nn.Dropout(float(spec.get("dropout", 0.0)))
        self.drop_path = float(spec.get("drop_path", 0.0))

    @classmethod
    def count(cls, base: nn.Module, spec: Mapping[str, Any]) -> int:
        """``k + sum r (rows + n)`` over the parameters."""
        total = 0
        for name, entry in spec["params"].items():
            weight, picks = base.get_parameter(name), entry.get("k", 0)
            total += weight.numel() if picks == "all" else picks
            total += sum(b["r"] * (b["stop"] - b["start"] + weight.shape[1]) for b in entry.get("blocks", ()))
        return total

    def positions(self, name: str) -> Tensor | None:
        """The picked flat positions of a parameter, ascending; ``None`` where all or none are picked."""
        key = plain_name(name)
        return getattr(self, self._indices[key]) if key in self._indices else None

    def blocks(self, name: str) -> list[LowRank]:
        """The low-rank blocks of a parameter."""
        found: Any = self.low[plain_name(name)] if plain_name(name) in self.low else ()
        return list(found)

    def changed(self, name: str) -> Tensor:
        """The parameter ``name`` with its change, differentiable in the change."""
        weight, key = self._base[0].get_parameter(name).detach(), plain_name(name)
        positions = self.positions(name)
        if key in self.values:
            values = self.values[key].to(weight.dtype)
            weight = weight + values if positions is None else scattered(weight, positions, values)
        if key in self.low:
            change = torch.zeros_like(weight)
            for block in self.blocks(name):
                change = change.index_add(
                    0,
                    torch.arange(block.start, block.stop, device=weight.device),
                    block.delta().to(weight.dtype),
                )
            weight = weight + change
        return weight

    def forward(self, inner: Inner, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """The module's output with changed parameters."""
        base = self._base[0]
        if type(base) is nn.Linear:
            return self._linear(base, first_input(args, options))
        return functional_call(
            base, {name: self.changed(name) for name in self.spec["params"]}, args, options
        )

    def _linear(self, base: nn.Linear, x: Tensor) -> Tensor:
        bias = self.changed("bias") if "bias" in self.spec["params"] else base.bias
        positions = self.positions("weight")
        if positions is not None:
            out = sparse_linear(x, base.weight, bias, positions, self.values["weight"])
        elif "weight" in self.values:
            out = F.linear(x, base.weight + self.values["weight"].to(base.weight.dtype), bias)
        else:
            out = F.linear(x, base.weight, bias)
        if "weight" not in self.low:
            return out
        pieces, dropped, done = [], self.dropout(x), 0
        for block in sorted(self.blocks("weight"), key=lambda block: block.start):
            pieces += [out[..., done : block.start]] if block.start > done else []
            change = self._drop_path(block(dropped.to(block.A.dtype))).to(out.dtype)
            pieces.append(out[..., block.start : block.stop] + change)
            done = block.stop
        pieces += [out[..., done:]] if done < out.shape[-1] else []
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=-1)

    def _drop_path(self, change: Tensor) -> Tensor:
        if not self.training or self.drop_path == 0.0:
            return change
        keep = 1.0 - self.drop_path
        shape = (len(change), *([1] * (change.ndim - 1)))
        return change * (torch.rand(shape, device=change.device) < keep) / keep

    def merge(self, base: nn.Module, owner: nn.Module) -> None:
        """Write the changed parameters over the module's own."""
        for name in self.spec["params"]:
            base.get_parameter(name).data.copy_(self.changed(name).detach())


@register_part
class TokenPart(Part):
    """A change of the first token before the blocks, which is a change of the class token.

    Stands at the module that reads the embedded tokens (timm's ``norm_pre``, ``ln_pre``).
    Plan entry: ``{"kind": "token", "name": "cls_token", "dim": D}``.
    """

    kind = "token"
    mergeable = True

    def __init__(self, base: nn.Module, spec: Mapping[str, Any]) -> None:
        super().__init__(base, spec)
        self.value = nn.Parameter(torch.zeros(int(spec["dim"])))

    @classmethod
    def count(cls, base: nn.Module, spec: Mapping[str, Any]) -> int:
        """``D``."""
        return int(spec["dim"])

    def forward(self, inner: Inner, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """The module's output on tokens whose first was moved."""
        x = first_input(args, options)
        moved = torch.cat([x[:, :1] + self.value.to(x.dtype), x[:, 1:]], dim=1)
        return inner(*with_first(args, options, moved))

    def merge(self, base: nn.Module, owner: nn.Module) -> None:
        """Add to the model's class token."""
        token = owner.get_parameter(self.spec["name"])
        token.data.add_(self.value.detach().view_as(token).to(token.dtype))
