"""A batch as one flat row of tokens: answers to one prompt share its forward pass, and nothing is padded.

A batch becomes ``[1, T]`` tokens: for every prompt its tokens once, then every answer to it.  Answers continue the
prompt's positions, and an attention function of our own lets each answer see the prompt and itself, nothing else.  No
model code is copied: the function is registered under a name in ``transformers.AttentionInterface``, and the language
model's configuration names it during the call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention as attend
from transformers import AttentionInterface

from mmalign.modalities.tokens.batching import merge_media
from mmalign.modalities.tokens.encoding import EncodedPrompt
from mmalign.modalities.tokens.forward import body, decoder, forward_names, positions

__all__ = ["NotShareable", "Packed", "pack_batch", "packed_states", "why_not_shareable"]

_NAME = "mmalign_shared_prefix"
_JOINT = 1024
"""Answers of one prompt attend in one masked call while they have at most this many tokens together."""


class NotShareable(RuntimeError):
    """The model's attention does something that the shared-prefix function does not do."""


@dataclass(frozen=True)
class Packed:
    """A batch as one flat row.

    ``ids`` ``[1, T]``; ``groups``: per prompt its length and the lengths of its answers, in the order in which they
    lie; ``before`` ``[B, S + 1]``: the flat place whose hidden state comes before each step, and after the last;
    ``prompts`` the encoded prompts, once each.
    """

    ids: Tensor
    groups: tuple[tuple[int, tuple[int, ...]], ...]
    before: Tensor
    prompts: tuple[EncodedPrompt, ...]
    masks: dict[Any, Tensor] = field(default_factory=dict, compare=False)

    def rows(self) -> tuple[list[EncodedPrompt], list[list[int]]]:
        """Prompt and answer of every row, in the batch's order."""
        where = {}
        at = 0
        for prompt, (prefix, answers) in zip(self.prompts, self.groups, strict=True):
            at += prefix
            for size in answers:
                where[at] = (prompt, self.ids[0, at : at + size].tolist())
                at += size
        found = [where[int(first)] for first in self.before[:, 1]]
        return [prompt for prompt, _ in found], [answer for _, answer in found]

    @property
    def longest(self) -> int:
        """The longest prompt with answer, in tokens."""
        return max(prefix + max(answers) for prefix, answers in self.groups)


def pack_batch(
    prompts: Sequence[EncodedPrompt], answers: Sequence[Sequence[int]], *, share: bool = True
) -> tuple[Packed, Tensor]:
    """Lay rows out as one flat row, rows of one prompt side by side; return it with the step mask ``[B, S]``.

    ``share``: one copy of a prompt for all its answers, or one for each.
    """
    members: dict[int, list[int]] = {}
    for row, prompt in enumerate(prompts):
        members.setdefault(id(prompt) if share else row, []).append(row)
    steps = max(len(answer) for answer in answers)
    mask = torch.zeros((len(prompts), steps), dtype=torch.bool)
    before = torch.zeros((len(prompts), steps + 1), dtype=torch.long)
    pieces: list[Tensor] = []
    groups, unique, at = [], [], 0
    for rows in members.values():
        prompt = prompts[rows[0]]
        unique.append(prompt)
        pieces.append(prompt.ids)
        last = at + len(prompt.ids) - 1
        at += len(prompt.ids)
        for row in rows:
            size = len(answers[row])
            mask[row, :size] = True
            before[row, 0] = last
            before[row, 1 : size + 1] = torch.arange(at, at + size)
            pieces.append(torch.as_tensor(answers[row], dtype=torch.long))
            at += size
        groups.append((len(prompt.ids), tuple(len(answers[row]) for row in rows)))
    return Packed(torch.cat(pieces)[None], tuple(groups), before, tuple(unique)), mask


def packed_states(model: nn.Module, packed: Packed, device: torch.device) -> Tensor:
    """Run the body once over the flat row and return ``[B, S + 1, H]``, as the padded forward would.

    Raises:
        NotShareable: when the attention asks for something the shared-prefix function does not do.
    """
    names = forward_names(model)
    flat, place = _flat_inputs(model, packed, device)
    given = {name: value for name, value in flat.items() if name in names}
    needed = packed.before.unique().to(device)
    with _attention(model, packed), _last_layer_only(model, needed):
        last: Tensor = body(model)(
            input_ids=packed.ids.to(device), position_ids=place, use_cache=False, **given
        )[0]
    return last[0][packed.before.to(device)]


@contextmanager
def _last_layer_only(model: nn.Module, needed: Tensor) -> Iterator[None]:
    """In the last decoder layer, compute output projection and MLP for the ``needed`` places only.

    Nothing reads the last hidden state of a prompt's other tokens; their keys and values come before these two.
    """
    layers = getattr(decoder(model), "layers", None)
    final = layers[-1] if isinstance(layers, nn.ModuleList) and len(layers) else None
    found = (getattr(final, "mlp", None), getattr(getattr(final, "self_attn", None), "o_proj", None))
    parts: list[Any] = [p for p in found if isinstance(p, nn.Module) and "forward" not in vars(p)]
    for part in parts:
        part.forward = partial(_at, part.forward, needed)
    try:
        yield
    finally:
        for part in parts:
            del part.forward


def _at(forward: Callable[[Tensor], Any], needed: Tensor, states: Tensor) -> Any:
    """``forward`` of some places of ``states`` ``[1, T, H]``, zeros elsewhere."""
    some = forward(states[:, needed])
    if not isinstance(some, Tensor) or some.ndim != 3:
        raise NotShareable("a last layer that returns more than one tensor")
    return some.new_zeros((1, states.shape[1], some.shape[-1])).index_copy(1, needed, some)


def why_not_shareable(model: nn.Module, prompts: Sequence[EncodedPrompt], longest: int) -> str | None:
    """The reason why this model cannot share prefixes that is known without trying, or ``None``.

    Args:
        model: the policy.
        prompts: the batch's prompts.
        longest: the longest prompt with answer, in tokens.
    """
    inner = decoder(model)
    config = inner.config
    if inner.training and getattr(inner, "gradient_checkpointing", False):
        return "gradient checkpointing would compute its layers again outside of the call"
    if any("token_type_ids" in prompt.per_token for prompt in prompts):
        return "its attention depends on token types (a prompt that is read in both directions)"
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    if window and ("sliding_attention" in kinds or not kinds) and longest > window:
        return f"its attention slides over {window} tokens, fewer than the batch has"
    if kinds - {"full_attention", "sliding_attention"}:
        return f"it has layers of type {sorted(kinds - {'full_attention', 'sliding_attention'})[0]}"
    return None


def _flat_inputs(model: nn.Module, packed: Packed, device: torch.device) -> tuple[dict[str, Tensor], Tensor]:
    places = []
    for prompt, (_, answers) in zip(packed.prompts, packed.groups, strict=True):
        alone: Mapping[str, Tensor] = {
            "input_ids": prompt.ids[None].to(device),
            "attention_mask": torch.ones((1, len(prompt.ids)), dtype=torch.long, device=device),
            **{name: value[None].to(device) for name, value in prompt.per_token.items()},
            **{name: value.to(device) for name, value in prompt.media.items() if _is_grid(name)},
        }
        own = positions(model, alone)
        after = int(own.max()) + 1
        places.append(own)
        for size in answers:
            next_ = torch.arange(after, after + size, device=device)
            places.append(next_.expand(*own.shape[:-1], size))
    media = {name: value.to(device) for name, value in merge_media(packed.prompts).items()}
    return media, torch.cat(places, dim=-1)


def _is_grid(name: str) -> bool:
    return name.endswith("_thw") or name.startswith("second_per_grid")


_PACKED: ContextVar[Packed | None] = ContextVar("packed", default=None)


@contextmanager
def _attention(model: nn.Module, packed: Packed) -> Iterator[None]:
    """Have the language model attend by :func:`_shared_prefix` over ``packed`` during the call."""
    config = decoder(model).config
    before = config._attn_implementation
    token = _PACKED.set(packed)
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = before
        _PACKED.reset(token)


def _shared_prefix(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention over a flat row: ``query`` ``[1, heads, T, D]``; returns ``[1, T, heads, D]``."""
    packed = _PACKED.get()
    asked = [name for name in ("softcap", "s_aux", "position_bias") if options.get(name) is not None]
    if packed is None or asked or dropout or attention_mask is not None or query.shape[0] != 1:
        raise NotShareable(asked[0] if asked else "a mask, dropout or a batch of several rows")
    repeat = query.shape[1] // key.shape[1]
    if repeat > 1:
        key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
    sizes = [prefix + sum(answers) for prefix, answers in packed.groups]
    parts = zip(*(tensor.split(sizes, dim=2) for tensor in (query, key, value)), strict=True)
    out: list[Tensor] = []
    for (q_all, k_all, v_all), (prefix, answers) in zip(parts, packed.groups, strict=True):
        if len(answers) == 1:
            out.append(attend(q_all, k_all, v_all, is_causal=True, scale=scaling))
            continue
        cut = [prefix, sum(answers)]
        (q0, q1), (k0, k1), (v0, v1) = (tensor.split(cut, dim=2) for tensor in (q_all, k_all, v_all))
        out.append(attend(q0, k0, v0, is_causal=True, scale=scaling))
        if sum(answers) <= max(prefix, _JOINT):
            mask = _mask(packed, prefix, answers, query.device)
            out.append(attend(q1, k_all, v_all, mask, scale=scaling))
            continue
        for q, k, v in zip(*(t.split(list(answers), dim=2) for t in (q1, k1, v1)), strict=True):
            mask = _mask(packed, prefix, (q.shape[2],), query.device)
            out.append(attend(q, torch.cat([k0, k], 2), torch.cat([v0, v], 2), mask, scale=scaling))
    return torch.cat(out, dim=2).transpose(1, 2), None


def _mask(packed: Packed, prefix: int, answers: tuple[int, ...], device: torch.device) -> Tensor:
    """``[N, prefix + N]``, true where an answer token may look: the prompt, and its own answer up to itself."""
    key = (prefix, answers, device)
    if key not in packed.masks:
        owner = torch.repeat_interleave(torch.arange(len(answers)), torch.tensor(answers))
        own = (owner[:, None] == owner[None]).tril()
        packed.masks[key] = torch.cat([own.new_ones((len(own), prefix)), own], 1).to(device)
    return packed.masks[key]


AttentionInterface.register(_NAME, _shared_prefix)
