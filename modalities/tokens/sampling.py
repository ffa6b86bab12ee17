"""Drawing answers with a key-value cache: one prefill per prompt, shared by its samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmalign.modalities.tokens.forward import body, forward_names, positions, unwrap
from mmalign.modalities.tokens.head import decoding_head
from mmalign.modalities.tokens.kv import roomy_cache

__all__ = ["Draw", "choose_tokens", "draw_answers", "inference", "uniform_noise"]

_BLOCK = 256
"""Tokens per block of the vocabulary when one is drawn."""

_KEEP = 0.75
"""Finished rows leave the batch once fewer than this share of it is still going."""


@dataclass(frozen=True, slots=True)
class Draw:
    """Raw samples: ``tokens`` ``[B, T]``, ``logp`` ``[B, T]`` (nats), ``lengths`` ``[B]``, ``finished`` ``[B]``."""

    tokens: Tensor
    logp: Tensor
    lengths: Tensor
    finished: Tensor


def uniform_noise(rng: torch.Generator | Sequence[torch.Generator], rows: int, n: int, steps: int) -> Tensor:
    """Uniform numbers ``[rows * n, steps]`` from one generator, or ``[n, steps]`` from each row's own."""
    streams = [rng] if isinstance(rng, torch.Generator) else list(rng)
    if len(streams) not in (1, rows):
        raise ValueError(f"expected one generator or {rows}, got {len(streams)}")
    share = rows * n // len(streams)
    return torch.cat(
        [torch.rand((share, steps), generator=g, dtype=torch.float64, device=g.device).cpu() for g in streams]
    )


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradient; the training flag is restored afterwards."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def draw_answers(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    noise: Tensor,
    n: int,
    *,
    temperature: float,
    stop_ids: Sequence[int],
    forbidden: Tensor | None,
) -> Draw:
    """Draw ``n`` answers for each left-padded prompt in ``inputs``.

    ``noise`` ``[B * n, T]`` holds one uniform number per step, so a sample depends neither on its
    neighbours nor on when finished rows leave the batch.  Temperature 0 is greedy; its log-probs are
    those of temperature 1.
    """
    with inference(model):
        state = _prefill(model, inputs, n, noise.shape[1])
        return _decode(model, state, noise, temperature, stop_ids, forbidden)


@dataclass(slots=True)
class _State:
    """What the loop carries: cache, next hidden state ``[B, H]``, key mask ``[B, L]``, next position ``[B]``.

    Without padding there is no key mask: the model then need not make one of all its keys for every token.
    """

    cache: Any
    hidden: Tensor
    attention: Tensor | None
    position: Tensor
    axes: int

    def keep(self, rows: Tensor) -> None:
        """Drop every row of the batch that is not in ``rows``."""
        self.cache.reorder_cache(rows)
        self.hidden, self.position = self.hidden[rows], self.position[rows]
        self.attention = None if self.attention is None else self.attention[rows]


def _prefill(model: nn.Module, inputs: Mapping[str, Tensor], n: int, steps: int) -> _State:
    inner = body(model)
    place = positions(model, inputs)
    names = forward_names(model)
    given = {name: value for name, value in inputs.items() if name in names}
    cache = roomy_cache(unwrap(model).config.get_text_config(), steps)
    out = inner(**given, position_ids=place, past_key_values=cache, use_cache=True)
    cache = out.past_key_values
    highest = place if place.ndim == 2 else place.amax(0)
    following = highest.masked_fill(inputs["attention_mask"] == 0, 0).amax(-1) + 1
    hidden, attention = out[0][:, -1], inputs["attention_mask"]
    padded = not bool(attention.all())
    if n > 1:
        # Every kind of cache layer, recurrent ones too, can be indexed by row; not every one can be repeated.
        copies = torch.arange(len(hidden), device=hidden.device).repeat_interleave(n)
        cache.reorder_cache(copies)
        hidden, attention, following = hidden[copies], attention[copies], following[copies]
    return _State(cache, hidden, attention if padded else None, following, place.ndim)


def _decode(
    model: nn.Module,
    state: _State,
    noise: Tensor,
    temperature: float,
    stop_ids: Sequence[int],
    forbidden: Tensor | None,
) -> Draw:
    rows, steps = noise.shape
    device = state.hidden.device
    tokens = torch.zeros((rows, steps), dtype=torch.long)
    logps = torch.zeros((rows, steps))
    lengths = torch.zeros(rows, dtype=torch.long)
    finished = torch.zeros(rows, dtype=torch.bool)
    stops = torch.tensor(list(stop_ids), dtype=torch.long, device=device)
    alive, going = torch.arange(rows), torch.ones(rows, dtype=torch.bool)
    head = decoding_head(model, forbidden)
    for step in range(steps):
        token, logp = choose_tokens(head(state.hidden), noise[alive, step], temperature, in_place=True)
        active = alive[going]
        tokens[active, step] = token.cpu()[going]
        logps[active, step] = logp.cpu()[going]
        lengths[active] = step + 1
        ended = torch.isin(token, stops).cpu() & going
        finished[alive[ended]] = True
        going = going & ~ended
        if not going.any() or step + 1 == steps:
            break
        if going.float().mean() < _KEEP:
            kept = going.nonzero()[:, 0].to(device)
            state.keep(kept)
            token, alive, going = token[kept], alive[going], going[going]
        _advance(model, state, token)
    longest = max(1, int(lengths.max())) if rows else 0
    return Draw(tokens[:, :longest], logps[:, :longest], lengths, finished)


def choose_tokens(
    logits: Tensor, uniform: Tensor, temperature: float, *, in_place: bool = False
) -> tuple[Tensor, Tensor]:
    """Draw one token per row of ``logits`` ``[B, V]`` by inversion of ``uniform`` ``[B]``, with its log-probability.

    Temperature 0 is greedy; its log-probabilities are those of temperature 1.  With ``in_place`` the logits are used
    up: tensors of a vocabulary's size cost more to allocate than to compute.
    """
    mass = logits if in_place else logits.clone()
    if temperature not in (0, 1):
        mass.div_(temperature)
    greedy = mass.argmax(-1) if temperature <= 0 else None
    mass.sub_(mass.amax(-1, keepdim=True)).exp_()
    blocks = nn.functional.pad(mass, (0, -mass.shape[-1] % _BLOCK)).unflatten(-1, (-1, _BLOCK))
    ends = blocks.sum(-1, dtype=torch.float64).cumsum(-1)
    token = _inverted(blocks, ends, uniform) if greedy is None else greedy
    taken = mass.gather(-1, token[:, None])[:, 0].double()
    return token, (taken.log() - ends[:, -1].log()).float()


def _inverted(blocks: Tensor, ends: Tensor, uniform: Tensor) -> Tensor:
    """Where the running sum of ``blocks`` ``[B, N, _BLOCK]`` first exceeds ``uniform`` ``[B]`` of its total.

    ``ends`` ``[B, N]`` are the running sums at the blocks' ends: first the block is found, then the token in it.
    """
    target = uniform.to(ends)[:, None].clamp(max=1 - 1e-9) * ends[:, -1:]
    block = torch.searchsorted(ends, target, right=True).clamp(max=ends.shape[-1] - 1)
    before = torch.where(block > 0, ends.gather(-1, (block - 1).clamp(min=0)), torch.zeros_like(target))
    inner = blocks.gather(1, block[..., None].expand(-1, 1, _BLOCK))[:, 0].cumsum(-1, dtype=torch.float64)
    rest = torch.minimum(
        target - before, inner[:, -1:] * (1 - 1e-12)
    )  # never past the block's last real mass
    place = torch.searchsorted(inner, rest.clamp(min=0), right=True).clamp(max=_BLOCK - 1)
    return (block * _BLOCK + place)[:, 0]


def _advance(model: nn.Module, state: _State, token: Tensor) -> None:
    if state.attention is not None:
        state.attention = torch.cat([state.attention, state.attention.new_ones((len(token), 1))], dim=1)
    place = state.position[:, None]
    out = body(model)(
        input_ids=token[:, None],
        attention_mask=state.attention,
        position_ids=place if state.axes == 2 else place.expand(3, *place.shape),
        past_key_values=state.cache,
        use_cache=True,
    )
    state.cache, state.hidden, state.position = out.past_key_values, out[0][:, -1], state.position + 1
