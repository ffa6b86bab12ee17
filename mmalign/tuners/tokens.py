"""Trainable tokens: prompts among a block's tokens, keys and values before an attention's own; kept features."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmalign.errors import UserError
from mmalign.tuners.parts import Inner, Part, first_input, register_part, with_first, with_output

__all__ = ["KeepPart", "PrefixPart", "PromptPart"]


@register_part
class PromptPart(Part):
    """``n`` prompts put among a block's tokens after the first ``after``, and taken out again where ``remove``.

    Deep prompts are put in and taken out at every block (the outputs of one block's prompts are not read by the
    next), shallow ones are put in at the first and taken out at the last.  With ``keep`` the outputs at the prompts
    and the other tokens are kept in ``kept`` for a side network.

    Plan entry: ``{"kind": "prompts", "n", "dim", "after", "insert", "remove", "keep", "init": "uniform" | "xavier",
    "fan"}``: uniform draws from ``+- sqrt(6 / (fan + dim))``, ``fan`` the inputs of the patch embedding.

    Reference: Jia et al. 2022, arXiv 2203.12119 (VPT).
    """

    kind = "prompts"

    def __init__(self, base: nn.Module, spec: Mapping[str, Any]) -> None:
        super().__init__(base, spec)
        self.n, self.after = int(spec["n"]), int(spec.get("after", 1))
        self.kept: tuple[Tensor, Tensor] | None = None
        if spec.get("insert", True):
            self.prompts = nn.Parameter(torch.empty(1, self.n, int(spec["dim"])))
            if spec.get("init") == "xavier":
                nn.init.xavier_uniform_(self.prompts)
            else:
                bound = math.sqrt(6 / (int(spec.get("fan", spec["dim"])) + int(spec["dim"])))
                nn.init.uniform_(self.prompts, -bound, bound)

    @classmethod
    def count(cls, base: nn.Module, spec: Mapping[str, Any]) -> int:
        """``n D`` where prompts are put in."""
        return int(spec["n"]) * int(spec["dim"]) if spec.get("insert", True) else 0

    def forward(self, inner: Inner, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """The block's output on tokens with prompts."""
        if self.spec.get("insert", True):
            x = first_input(args, options)
            if x.ndim != 3:
                raise UserError(f"prompts: tokens [B, N, D] are needed, got a tensor of {x.ndim} dimensions")
            prompts = self.prompts.to(x.dtype).expand(len(x), -1, -1)
            x = torch.cat([x[:, : self.after], prompts, x[:, self.after :]], dim=1)
            args, options = with_first(args, options, x)
        output = inner(args, options)
        return with_output(output, self._without) if self.spec.get("remove", True) else output

    def _without(self, y: Tensor) -> Tensor:
        rest = y[:, self.after + self.n :]
        if self.spec.get("keep"):
            self.kept = (y[:, self.after : self.after + self.n], rest)
        return torch.cat([y[:, : self.after], rest], dim=1)


@register_part
class KeepPart(Part):
    """Keeps a block's output without gradient for a side network: first token and the others.  Trains nothing.

    Plan entry: ``{"kind": "keep", "after": 1}``.
    """

    kind = "keep"
    mergeable = True

    def __init__(self, base: nn.Module, spec: Mapping[str, Any]) -> None:
        super().__init__(base, spec)
        self.kept: tuple[Tensor, Tensor] | None = None

    @classmethod
    def count(cls, base: nn.Module, spec: Mapping[str, Any]) -> int:
        """0."""
        return 0

    def forward(self, inner: Inner, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """The block's own output."""
        after = int(self.spec.get("after", 1))

        def keep(y: Tensor) -> Tensor:
            self.kept = (y[:, :1].detach().clone(), y[:, after:].detach())
            return y

        return with_output(inner(args, options), keep)

    def merge(self, base: nn.Module, owner: nn.Module) -> None:
        """Nothing to fold."""


@register_part
class PrefixPart(Part):
    """``n`` trained keys and values before an attention's own; a gate that starts at 0 makes it the identity.

    Equation: ``h + tanh(g) (softmax(q [P_k; K]) [P_v; V] - h)`` with ``h = softmax(q K) V``; ungated (``gate: false``)
    it is prefix tuning, ``(1 - lambda) h + lambda softmax(q P_k) P_v`` with ``lambda`` the prefix' share of the mass.

    Plan entry: ``{"kind": "prefix", "n", "heads", "dim", "gate"}`` at a timm ``Attention``.

    Reference: Li and Liang 2021, arXiv 2101.00190; He et al. 2022, arXiv 2110.04366, section 3.1.
    Differs from paper: the gate (paper: none), no reparametrisation by a network.
    """

    kind = "prefix"

    def __init__(self, base: nn.Module, spec: Mapping[str, Any]) -> None:
        super().__init__(base, spec)
        lost = [name for name in ("qkv", "q_norm", "k_norm", "proj", "num_heads") if not hasattr(base, name)]
        if lost or getattr(base, "gate", None) is not None:
            raise UserError(f"prefix: needs timm's Attention, not {type(base).__name__}")
        heads, dim = int(spec["heads"]), int(spec["dim"])
        self.keys = nn.Parameter(torch.randn(heads, int(spec["n"]), dim // heads) * 0.02)
        self.held = nn.Parameter(torch.randn(heads, int(spec["n"]), dim // heads) * 0.02)
        self.gate = nn.Parameter(torch.zeros(())) if spec.get("gate", True) else None
        self._base: tuple[Any] = (base,)

    @classmethod
    def count(cls, base: nn.Module, spec: Mapping[str, Any]) -> int:
        """``2 n D``, and 1 for the gate."""
        return 2 * int(spec["n"]) * int(spec["dim"]) + int(bool(spec.get("gate", True)))

    def forward(self, inner: Inner, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """The attention's output with the prefix."""
        if len(args) > 1 or any(value is not None and value is not False for value in options.values()):
            raise UserError("prefix: an attention mask is not supported")
        x, base = first_input(args, options), self._base[0]
        size, count, _ = x.shape
        heads, dim = self.keys.shape[0], self.keys.shape[2]
        qkv = base.qkv(x).reshape(size, count, 3, heads, dim).permute(2, 0, 3, 1, 4)
        q, k, v = base.q_norm(qkv[0]), base.k_norm(qkv[1]), qkv[2]
        drop = base.attn_drop.p if base.training else 0.0
        pairs = ((self.keys, k), (self.held, v))
        all_k, all_v = (torch.cat([new.expand(size, -1, -1, -1).to(old.dtype), old], 2) for new, old in pairs)
        mixed = F.scaled_dot_product_attention(q, all_k, all_v, dropout_p=drop)
        if self.gate is not None:
            plain = F.scaled_dot_product_attention(q, k, v, dropout_p=drop)
            mixed = plain + torch.tanh(self.gate) * (mixed - plain)
        out = base.norm(mixed.transpose(1, 2).reshape(size, count, heads * dim))
        return base.proj_drop(base.proj(out))
