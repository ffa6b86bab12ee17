"""One forward pass through a token model: its parts, positions, and the hidden states before the head."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmalign.errors import UserError

__all__ = ["answer_states", "body", "decoder", "forward_names", "positions", "unwrap"]

_LANGUAGE = ("language_model", "text_model")


def unwrap(model: nn.Module) -> Any:
    """Return the Hugging Face model inside a distributed wrapper and a ``PeftModel``."""
    inner: Any = model
    while isinstance(getattr(inner, "module", None), nn.Module):
        inner = inner.module
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


def body(model: nn.Module) -> Any:
    """Return the model without its LM head (its output's first entry is the last hidden state)."""
    inner = unwrap(model).base_model
    if inner is unwrap(model):
        raise UserError(f"{type(inner).__name__} keeps its LM head inside its body; it cannot be scored")
    return inner


def decoder(model: nn.Module) -> Any:
    """Return the language model inside the body (the body itself where there is nothing else in it)."""
    inner = body(model)
    return next((getattr(inner, name) for name in _LANGUAGE if hasattr(inner, name)), inner)


def forward_names(model: nn.Module) -> frozenset[str]:
    """Names of the inputs the model's body takes; anything else the processor made is left out."""
    return frozenset(inspect.signature(body(model).forward).parameters) - {"position_ids", "labels"}


def positions(model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
    """Position ids that count real tokens only: ``[B, L]``, or ``[3, B, L]`` for multimodal rotary models."""
    attention = inputs["attention_mask"]
    inner = body(model)
    if hasattr(inner, "get_rope_index") and inputs.get("image_grid_thw") is not None:
        known = inspect.signature(inner.get_rope_index).parameters
        grid: Tensor = inner.get_rope_index(**{name: inputs[name] for name in known if name in inputs})[0]
        return grid
    flat: Tensor = (attention.cumsum(-1) - 1).clamp(min=0)
    if hasattr(inner, "get_rope_index"):
        return flat.expand(3, *flat.shape)
    return flat + 1 if unwrap(model).config.model_type == "paligemma" else flat


def answer_states(model: nn.Module, inputs: Mapping[str, Any], steps: int) -> Tensor:
    """Run the body once and return ``[B, T + 1, H]``: the state before each step and after the last."""
    inner = body(model)
    names = forward_names(model)
    given = {name: value for name, value in inputs.items() if name in names}
    last: Tensor = inner(**given, position_ids=positions(model, inputs), use_cache=False)[0]
    columns = inputs["start"][:, None] - 1 + torch.arange(steps + 1, device=last.device)
    columns = columns.clamp(max=last.shape[1] - 1)
    return last.gather(1, columns[..., None].expand(-1, -1, last.shape[-1]))
