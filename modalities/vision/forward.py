"""One forward pass: positions, hidden states before the head, and log-probs at the answer's steps only."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmalign.errors import UserError

__all__ = ["answer_states", "body", "forward_names", "head_logits", "positions", "step_logp", "unwrap"]

_HEAD_CHUNK = 2**25
"""Above this many logits (rows x vocabulary) the head is recomputed chunk by chunk in the backward pass."""


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


def head_logits(model: nn.Module, states: Tensor, forbidden: Tensor | None = None) -> Tensor:
    """Apply the LM head in the model's precision, then float32: family scale, soft cap, forbidden tokens.

    Placeholder tokens (``forbidden``, ids) get probability zero, here and when sampling: an answer that
    contains one could not be read back by the model.
    """
    outer = unwrap(model)
    text = outer.config.get_text_config()
    logits: Tensor = outer.get_output_embeddings()(states)
    if getattr(text, "logits_scaling", None):
        logits = logits / text.logits_scaling
    if getattr(text, "logit_scale", None):
        logits = logits * text.logit_scale
    if getattr(text, "final_logit_softcapping", None):
        logits = torch.tanh(logits / text.final_logit_softcapping) * text.final_logit_softcapping
    logits = logits.float()
    if forbidden is not None and forbidden.numel():
        logits = logits.index_fill(-1, forbidden.to(logits.device), float("-inf"))
    return logits


def step_logp(
    model: nn.Module,
    states: Tensor,
    tokens: Tensor,
    *,
    temperature: float,
    forbidden: Tensor | None,
    entropy: bool,
) -> tuple[Tensor, Tensor | None]:
    """Log-probability ``[N]`` (nats) of ``tokens`` ``[N]`` after ``states`` ``[N, H]``, and the entropy.

    The head is applied in chunks whose logits are recomputed in the backward pass when they would be large.
    """
    size = max(1, _HEAD_CHUNK // unwrap(model).config.get_text_config().vocab_size)

    def score(chunk: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        logp = torch.log_softmax(head_logits(model, chunk, forbidden) / temperature, dim=-1)
        taken = logp.gather(-1, chosen[:, None])[:, 0]
        if not entropy:
            return taken, taken.new_zeros(())
        finite = torch.where(logp.isfinite(), logp, torch.zeros_like(logp))
        return taken, -(logp.exp() * finite).sum(-1)

    if states.shape[0] <= size:
        values, spread = score(states, tokens)
        return values, spread if entropy else None
    chunks = zip(torch.split(states, size), torch.split(tokens, size), strict=True)
    parts = [checkpoint(score, *chunk, use_reentrant=False, preserve_rng_state=False) for chunk in chunks]
    values = torch.cat([part[0] for part in parts])
    return values, torch.cat([part[1] for part in parts]) if entropy else None
