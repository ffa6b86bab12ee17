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
    """What the loop carries: cache, next hidden state ``[B, H]``, key mask ``[B, L]``, next position ``[B]``."""

    cache: Any
    hidden: Tensor
    attention: Tensor
    position: Tensor
    axes: int

    def keep(self, rows: Tensor) -> None:
        """Drop every row of the batch that is not in ``rows``."""
        self.cache.reorder_cache(rows)
        self.hidden, self.attention, self.position = (
            self.hidden[rows],
            self.attention[rows],
            self.position[rows],
        )


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
    if n > 1:
        # Every kind of cache layer, recurrent ones too, can be indexed by row; not every one can be repeated.
        copies = torch.arange(len(hidden), device=hidden.device).repeat_interleave(n)
        cache.reorder_cache(copies)
        hidden, attention, following = hidden[copies], attention[copies], following[copies]
    return _State(cache, hidden, attention, following, place.ndim)


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
        token, logp = choose_tokens(head(state.hidden), noise[alive, step], temperature)
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


def choose_tokens(logits: Tensor, uniform: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Draw one token per row of ``logits`` ``[B, V]`` by inversion of ``uniform`` ``[B]``, with its log-probability.

    Temperature 0 is greedy; its log-probabilities are those of temperature 1.
    """
    logp = torch.log_softmax(logits / temperature if temperature not in (0, 1) else logits, dim=-1)
    if temperature <= 0:
        token = logits.argmax(-1)
    else:
        mass = logp.exp().cumsum(-1, dtype=torch.float64)
        target = uniform.to(mass)[:, None].clamp(max=1 - 1e-9) * mass[:, -1:]
        token = torch.searchsorted(mass, target, right=True)[:, 0].clamp(max=mass.shape[-1] - 1)
    return token, logp.gather(-1, token[:, None])[:, 0]


def _advance(model: nn.Module, state: _State, token: Tensor) -> None:
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
