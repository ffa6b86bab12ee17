"""Adapters at activation sites: bottleneck, convolutional (Conformer), and scale and shift."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmalign.errors import UserError, nearest
from mmalign.tuners.parts import Inner, Part, first_input, register_part, with_output

__all__ = ["AdapterPart", "ConformerPart", "ScalePart"]

_ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "none": nn.Identity}


def _placed(part: Part, inner: Inner, args: tuple[Any, ...], options: dict[str, Any], change: Any) -> Any:
    """``y + change(y)`` after the module (sequential) or ``y + change(x)`` beside it (parallel)."""
    output = inner(args, options)
    if part.spec.get("place", "sequential") == "parallel":
        extra = change(first_input(args, options))
        return with_output(output, lambda y: y + extra)
    return with_output(output, lambda y: y + change(y))


@register_part
class AdapterPart(Part):
    """A bottleneck: ``scale * Up(act(Down(z)))``, on the output (sequential) or the input (parallel) of the module.

    The up-projection is 0 and the down-projection is drawn (Kaiming, a = sqrt 5), so that both learn from the second
    step on; with both at 0, as in a public implementation, neither would ever.

    Plan entry: ``{"kind": "adapter", "in": n, "out": m, "hidden": h, "place", "act", "scale", "norm", "start"}``;
    ``start`` is the first column of a sequential adapter on a slice of ``in == out`` columns.

    Reference: Houlsby et al. 2019, arXiv 1902.00751; He et al. 2022, arXiv 2110.04366 (parallel, scaled).
    """

    kind = "adapter"

    def __init__(self, base: nn.Module, spec: Mapping[str, Any]) -> None:
        super().__init__(base, spec)
        known = str(spec.get("act", "relu"))
        if known not in _ACTIVATIONS:
            raise UserError(f'no activation of an adapter is called "{known}"{nearest(known, _ACTIVATIONS)}')
        self.norm = nn.LayerNorm(int(spec["in"])) if spec.get("norm") else nn.Identity()
        self.down = nn.Linear(int(spec["in"]), int(spec["hidden"]))
        self.act = _ACTIVATIONS[known]()
        self.up = nn.Linear(int(spec["hidden"]), int(spec["out"]))
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for tensor in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(tensor)
        self.scale = float(spec.get("scale", 1.0))

    @classmethod
    def count(cls, base: nn.Module, spec: Mapping[str, Any]) -> int:
        """``n h + h + h m + m``, and ``2 n`` for a norm."""
        n, h, m = int(spec["in"]), int(spec["hidden"]), int(spec["out"])
        return n * h + h + h * m + m + (2 * n if spec.get("norm") else 0)

    def change(self, z: Tensor) -> Tensor:
        """What is added, ``[..., m]``."""
        return (self.scale * self.up(self.act(self.down(self.norm(z.to(self.up.weight.dtype)))))).to(z.dtype)

    def forward(self, inner: Inner, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """The module's output with what the adapter adds."""
        start, wide = self.spec.get("start"), int(self.spec["in"])
        if start is None:
            return _placed(self, inner, args, options, self.change)
        y = inner(args, options)
        middle = y[..., start : start + wide]
        return torch.cat([y[..., :start], middle + self.change(middle), y[..., start + wide :]], dim=-1)


@register_part
class ConformerPart(Part):
    """A convolution along the tokens: LN, 1x1 to 2h, GLU, depthwise convolution, BatchNorm, SiLU, 1x1 back.

    The last 1x1 is 0 at the start.  Plan entry: ``{"kind": "conformer", "dim": D, "hidden": h, "kernel": 31,
    "place", "scale"}``.

    Reference: Cappellazzo et al. 2023, arXiv 2312.03694 (adapters of the Audio Spectrogram Transformer).
    Differs from the authors' code: the LayerNorm acts (there its output is overwritten), the depthwise convolution
    has no bias (BatchNorm would cancel it).
    """

    kind = "conformer"

    def __init__(self, base: nn.Module, spec: Mapping[str, Any]) -> None:
        super().__init__(base, spec)
        dim, hidden, kernel = int(spec["dim"]), int(spec["hidden"]), int(spec.get("kernel", 31))
        if kernel % 2 == 0:
            raise UserError(f"a conformer adapter's kernel is odd, not {kernel}")
        self.norm = nn.LayerNorm(dim)
        self.inner = nn.Linear(dim, 2 * hidden)
        self.depthwise = nn.Conv1d(hidden, hidden, kernel, padding=kernel // 2, groups=hidden, bias=False)
        self.batch_norm = nn.BatchNorm1d(hidden)
        self.outer = nn.Linear(hidden, dim)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)
        self.scale = float(spec.get("scale", 1.0))

    @classmethod
    def count(cls, base: nn.Module, spec: Mapping[str, Any]) -> int:
        """``2 D + 2 h (D + 1) + h kernel + 2 h + D (h + 1)``."""
        d, h = int(spec["dim"]), int(spec["hidden"])
        return 2 * d + 2 * h * (d + 1) + h * int(spec.get("kernel", 31)) + 2 * h + d * (h + 1)

    def change(self, z: Tensor) -> Tensor:
        """What is added, from tokens ``[B, N, D]``."""
        if z.ndim != 3:
            raise UserError(f"conformer: tokens [B, N, D] are needed, got a tensor of {z.ndim} dimensions")
        inner = self.inner(self.norm(z.to(self.outer.weight.dtype)))
        hidden = nn.functional.glu(inner, dim=-1).transpose(1, 2)
        hidden = nn.functional.silu(self.batch_norm(self.depthwise(hidden))).transpose(1, 2)
        return (self.scale * self.outer(hidden)).to(z.dtype)

    def forward(self, inner: Inner, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """The module's output with what the adapter adds."""
        return _placed(self, inner, args, options, self.change)


@register_part
class ScalePart(Part):
    """Scale and shift of a module's output: ``gamma * y + beta``; merges into weight and bias.

    Plan entry: ``{"kind": "scale", "dim": d, "axis": -1 or 1, "shift": true}``; ``shift`` needs a module with a bias.

    Reference: Lian et al. 2022, arXiv 2210.08823 (SSF).
    Differs from paper: gamma starts at 1 and beta at 0 exactly (there N(1, 0.02) and N(0, 0.02)).
    """

    kind = "scale"
    mergeable = True

    def __init__(self, base: nn.Module, spec: Mapping[str, Any]) -> None:
        super().__init__(base, spec)
        self.gamma = nn.Parameter(torch.ones(int(spec["dim"])))
        self.beta = nn.Parameter(torch.zeros(int(spec["dim"]))) if spec.get("shift", True) else None

    @classmethod
    def count(cls, base: nn.Module, spec: Mapping[str, Any]) -> int:
        """``2 d``, or ``d`` without shift."""
        return int(spec["dim"]) * (2 if spec.get("shift", True) else 1)

    def forward(self, inner: Inner, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """The module's output, scaled and shifted."""
        return with_output(inner(args, options), self._scaled)

    def _scaled(self, y: Tensor) -> Tensor:
        shape = [1] * y.ndim
        shape[int(self.spec.get("axis", -1))] = -1
        out = y * self.gamma.view(shape)
        return (out if self.beta is None else out + self.beta.view(shape)).to(y.dtype)

    def merge(self, base: nn.Module, owner: nn.Module) -> None:
        """Scale the rows of the weight and the bias, then shift the bias."""
        weight, bias = base.get_parameter("weight"), getattr(base, "bias", None)
        weight.data.mul_(self.gamma.detach().view(-1, *([1] * (weight.ndim - 1))))
        if bias is not None:
            bias.data.mul_(self.gamma.detach())
            if self.beta is not None:
                bias.data.add_(self.beta.detach())
