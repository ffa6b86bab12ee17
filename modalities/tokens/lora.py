"""LoRA through peft, on the language model only unless told otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from mmalign.errors import UserError, nearest
from mmalign.modalities.tokens.forward import decoder, unwrap

__all__ = ["attach_lora", "language_linears", "merged"]

_LINEAR = (nn.Linear, Conv1D)


def language_linears(model: nn.Module) -> list[str]:
    """Full names of the linear layers inside the language model (no tower, no projector, no LM head)."""
    wanted = {id(module) for module in decoder(model).modules() if isinstance(module, _LINEAR)}
    return [name for name, module in unwrap(model).named_modules() if id(module) in wanted]


def attach_lora(
    model: nn.Module,
    r: int = 16,
    alpha: int = 32,
    target_modules: Sequence[str] | str | None = None,
    seed: int = 0,
) -> PeftModel:
    """Freeze ``model`` and attach LoRA of rank ``r``; the policy starts exactly equal to the model.

    Equation: ``W x + (alpha / r) B A x`` with ``B = 0`` at the start and ``A`` drawn from ``seed``.

    Reference: Hu et al. 2021, arXiv 2106.09685.
    Differs from paper: every linear layer of the language model is a target, not attention alone.

    ``target_modules`` are layer names or their endings, as a list or separated by commas.

    Raises:
        UserError: when no linear layer matches ``target_modules``.
    """
    linears = {name for name, module in model.named_modules() if isinstance(module, _LINEAR)}
    names = language_linears(model) if target_modules is None else _listed(target_modules)
    for name in names:
        if not any(linear == name or linear.endswith("." + name) for linear in linears):
            known = {linear.rpartition(".")[2] for linear in linears}
            raise UserError(f'no linear layer is called "{name}"{nearest(name, known)}')
    config = LoraConfig(r=r, lora_alpha=alpha, target_modules=names, lora_dropout=0.0, task_type="CAUSAL_LM")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_peft_model(model, config)


@contextmanager
def merged(model: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Have every LoRA layer that is switched on compute with one weight instead of three inside the block.

    The sum goes into a new tensor and the layer's own comes back afterwards, bit for bit.  Half-precision and
    quantised weights are left alone: the sum would lose what the adapter adds.
    """
    layers: list[Any] = [layer for layer in model.modules() if _mergeable(layer)] if wanted else []
    kept: list[tuple[Any, Any, Any, Any]] = []
    try:
        for layer in layers:
            base = layer.get_base_layer()
            kept.append((layer, base, base.weight.data, None if base.bias is None else base.bias.data))
            layer.merge(safe_merge=True)
        yield
    finally:
        for layer, base, weight, bias in kept:
            layer.merged_adapters.clear()
            base.weight.data = weight
            if bias is not None:
                base.bias.data = bias


def _mergeable(layer: nn.Module) -> bool:
    if (
        not isinstance(layer, LoraLayer)
        or layer.disable_adapters
        or layer.merged
        or not layer.active_adapters
    ):
        return False
    base = layer.get_base_layer()
    return type(base) in _LINEAR and base.weight.dtype in (torch.float32, torch.float64)


def _listed(names: Sequence[str] | str) -> list[str]:
    return [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
