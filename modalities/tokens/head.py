"""The LM head, applied at the answer's steps only: logits, and log-probs that never keep them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmalign.modalities.tokens.forward import unwrap

__all__ = ["decoding_head", "head_logits", "head_step_logp", "scattered", "step_logp"]

_HEAD_CHUNK = 2**25
"""Above this many logits (rows x vocabulary) the plain head is recomputed chunk by chunk in the backward pass."""

_COMPACT_CHUNK = 2**23
"""Logits (rows x vocabulary) that the compact head holds at once."""

_TURNED = 2**26
"""A head of at most this many weights is laid out anew for decoding."""

_KEPT = 2**24
"""A head that trains keeps its probabilities for the backward pass up to this many, and makes them anew above."""


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


def decoding_head(model: nn.Module, forbidden: Tensor | None) -> Callable[[Tensor], Tensor]:
    """:func:`head_logits` for a loop that applies the head to a few rows many times, without gradient.

    What it returns may be overwritten, and is by the next call.

    On a CPU a product of few rows is bound by how the weights lie, so a plain head of moderate size is laid out the
    other way round once; its logits are equal to rounding.
    """
    head = _plain_linear(model)
    if head is None or head.weight.device.type != "cpu" or head.weight.numel() > _TURNED:
        return lambda states: head_logits(model, states, forbidden)
    turned, bias = head.weight.detach().t().contiguous(), head.bias

    room = torch.empty(0)

    def logits(states: Tensor) -> Tensor:
        nonlocal room
        if turned.dtype != torch.float32:
            out = (states @ turned if bias is None else torch.addmm(bias, states, turned)).float()
        else:
            if len(room) < len(states):
                room = turned.new_empty(len(states), turned.shape[1])
            out = room[: len(states)]
            if bias is None:
                torch.mm(states, turned, out=out)
            else:
                torch.addmm(bias, states, turned, out=out)
        if forbidden is not None and forbidden.numel():
            out = out.index_fill_(-1, forbidden.to(out.device), float("-inf"))
        return out

    return logits


def step_logp(
    model: nn.Module,
    states: Tensor,
    tokens: Tensor,
    *,
    temperature: float,
    forbidden: Tensor | None,
    entropy: bool,
    compact: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Log-probability ``[N]`` (nats) of ``tokens`` ``[N]`` after ``states`` ``[N, H]``, and the entropy.

    With ``compact`` the gradient with respect to the states is formed in the forward pass and logits are never
    kept (:class:`_CompactHead`); heads that are more than one linear layer, and gradients of the entropy, take the
    plain way: chunks whose logits are recomputed in the backward pass when they would be large.
    """
    vocabulary = unwrap(model).config.get_text_config().vocab_size
    return head_step_logp(
        _plain_linear(model),
        lambda chunk: head_logits(model, chunk, forbidden),
        vocabulary,
        states,
        tokens,
        temperature=temperature,
        forbidden=forbidden,
        entropy=entropy,
        compact=compact,
    )


def head_step_logp(
    head: nn.Linear | None,
    logits: Callable[[Tensor], Tensor],
    vocabulary: int,
    states: Tensor,
    tokens: Tensor,
    *,
    temperature: float,
    forbidden: Tensor | None = None,
    entropy: bool = False,
    compact: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """:func:`step_logp` without a model: ``head`` where it is one plain linear layer, and what makes its ``logits``."""
    wants_grad = torch.is_grad_enabled() and (states.requires_grad or _trains(head))
    if compact and head is not None and (not entropy or not wants_grad):
        values, spread = _CompactHead.apply(
            states, head.weight, head.bias, tokens, temperature, forbidden, entropy
        )
        return values, spread if entropy else None
    return _plain_step_logp(logits, vocabulary, states, tokens, temperature, entropy)


def scattered(values: Tensor, mask: Tensor) -> Tensor:
    """Put ``[N]`` values back where ``mask`` ``[B, T]`` is true, zeros elsewhere."""
    return values.new_zeros(mask.shape).masked_scatter(mask, values)


def _plain_step_logp(
    logits: Callable[[Tensor], Tensor],
    vocabulary: int,
    states: Tensor,
    tokens: Tensor,
    temperature: float,
    entropy: bool,
) -> tuple[Tensor, Tensor | None]:
    size = max(1, _HEAD_CHUNK // vocabulary)

    def score(chunk: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        logp = torch.log_softmax(logits(chunk) / temperature, dim=-1)
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


def _plain_linear(model: nn.Module) -> nn.Linear | None:
    """The head where it is exactly one linear layer whose logits are used as they come, else ``None``."""
    outer = unwrap(model)
    head = outer.get_output_embeddings()
    text = outer.config.get_text_config()
    changed = any(
        getattr(text, name, None) for name in ("logits_scaling", "logit_scale", "final_logit_softcapping")
    )
    return head if type(head) is nn.Linear and not changed else None


def _trains(head: nn.Linear | None) -> bool:
    return head is not None and any(parameter.requires_grad for parameter in head.parameters())


class _CompactHead(torch.autograd.Function):
    """``logp[i] = log_softmax((W h_i + b) / temperature)[token_i]`` without keeping a logit.

    The derivative ``d logp_i / d h_i = (W[token_i] - p_i W) / temperature`` needs nothing that comes later, so it
    is formed while the chunk's probabilities are at hand; only ``[N, H]`` is kept.  A head that trains keeps the
    probabilities too where they are few, and recomputes them in the backward pass where they are many.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        tokens: Tensor,
        temperature: float,
        forbidden: Tensor | None,
        entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        values, spread, slopes, kept = [], [], [], []
        trained = any(ctx.needs_input_grad[1:3])
        keep = trained and len(states) * weight.shape[0] <= _KEPT
        size = max(1, _COMPACT_CHUNK // weight.shape[0])
        for chunk, taken in zip(states.split(size), tokens.split(size), strict=True):
            logp = _chunk_logp(chunk, weight, bias, temperature, forbidden)
            values.append(logp.gather(-1, taken[:, None])[:, 0])
            if entropy:
                finite = torch.where(logp.isfinite(), logp, torch.zeros_like(logp))
                spread.append(-(logp.exp() * finite).sum(-1))
            share = logp.exp_() if ctx.needs_input_grad[0] or keep else logp
            if ctx.needs_input_grad[0]:
                slopes.append((weight[taken] - share.to(weight.dtype) @ weight) / temperature)
            if keep:
                kept.append(share)
        slope = torch.cat(slopes) if slopes else None
        needed = (states, weight, bias, tokens, forbidden, *kept) if trained else ()
        ctx.save_for_backward(slope, *needed)
        ctx.temperature, ctx.trained = temperature, trained
        out = torch.cat(values) if values else states.new_zeros(0, dtype=torch.float32)
        uncertainty = torch.cat(spread) if spread else out.new_zeros(())
        ctx.mark_non_differentiable(uncertainty)
        return out, uncertainty

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = grads[0]
        slope = ctx.saved_tensors[0]
        d_states = None if slope is None else grad[:, None].to(slope.dtype) * slope
        d_weight = d_bias = None
        if ctx.trained:
            d_weight, d_bias = _head_gradients(ctx, grad)
        return d_states, d_weight, d_bias, None, None, None, None


def _chunk_logp(
    states: Tensor, weight: Tensor, bias: Tensor | None, temperature: float, forbidden: Tensor | None
) -> Tensor:
    logits = nn.functional.linear(states, weight, bias).float()
    if forbidden is not None and forbidden.numel():
        logits.index_fill_(-1, forbidden.to(logits.device), float("-inf"))
    return torch.log_softmax(logits.div_(temperature) if temperature != 1.0 else logits, dim=-1)


def _head_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of weight and bias: ``sum_i grad_i (onehot_i - p_i) h_i / temperature``."""
    _, states, weight, bias, tokens, forbidden, *kept = ctx.saved_tensors
    d_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
    d_bias = torch.zeros_like(bias) if ctx.needs_input_grad[2] else None
    size = max(1, _COMPACT_CHUNK // weight.shape[0])
    chunks = zip(states.split(size), tokens.split(size), grad.split(size), strict=True)
    for place, (chunk, taken, above) in enumerate(chunks):
        if kept:
            push = kept[place].neg()
        else:
            push = _chunk_logp(chunk, weight, bias, ctx.temperature, forbidden).exp_().neg_()
        push.scatter_add_(-1, taken[:, None], torch.ones_like(push[:, :1]))
        push.mul_(above[:, None] / ctx.temperature)
        if d_weight is not None:
            d_weight.addmm_(push.to(weight.dtype).t(), chunk)
        if d_bias is not None:
            d_bias.add_(push.sum(0).to(bias.dtype))
    return d_weight, d_bias
