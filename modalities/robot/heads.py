"""What draws and scores decisions from features: Gaussian actions, tokens, and denoised chunks of actions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmalign.modalities.robot.noise import Noise

__all__ = ["Drawn", "GaussianHead", "Scores", "TokenHead", "gaussian_density"]

_BOUND = 0.97
"""A given action is kept inside this before ``atanh``, which has no value at 1."""


@dataclass(frozen=True)
class Drawn:
    """A decision per episode: the record ``[B, ...]``, ``logp`` ``[B, S]``, ``actions`` ``[B, C, A]`` in [-1, 1]."""

    record: Tensor
    logp: Tensor
    actions: Tensor


@dataclass(frozen=True)
class Scores:
    """``logp`` and ``entropy`` ``[N, S]``; where steps are Gaussian with a standard deviation that does not train,
    ``mean`` ``[N, S, dims]`` and ``std`` ``[N, S]``."""

    logp: Tensor
    entropy: Tensor
    mean: Tensor | None = None
    std: Tensor | None = None


def gaussian_density(value: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Log-density and entropy in nats of ``N(mean, diag(std^2))``, summed over the last dimension."""
    dense = -0.5 * ((value - mean) / std).square() - std.log() - 0.5 * math.log(2 * math.pi)
    spread = (std.log() + 0.5 * math.log(2 * math.pi * math.e)).expand_as(mean)
    return dense.sum(-1), spread.sum(-1)


class GaussianHead(nn.Module):
    """``u ~ N(mean(features), std^2)``, action ``clip(u)`` or ``tanh(u)``.

    The density is that of ``u``: the change of variables is the same for every policy, so that it cancels in every
    ratio and KL.  ``std`` does not depend on the state and is fixed unless ``learn_std``.
    """

    substeps = 1

    def __init__(self, inputs: int, size: int, *, std: float, learn_std: bool, squash: str) -> None:
        super().__init__()
        self.squash, self.dims, self.exact = squash, size, not learn_std
        self.mean = nn.Linear(inputs, size)
        self.log_std = nn.Parameter(torch.full((size,), math.log(std)), requires_grad=learn_std)

    def draw(self, features: Tensor, noise: Noise, temperature: float) -> Drawn:
        """Draw one action each; temperature 0 takes the mean."""
        mean, std = self.mean(features), self._std(temperature)
        value = mean if temperature == 0 else mean + std * noise.normal(self.dims).to(mean)
        return Drawn(value, gaussian_density(value, mean, std)[0][:, None], self.actions(value)[:, None])

    def score(self, features: Tensor, record: Tensor, temperature: float) -> Scores:
        """Score drawn numbers ``[N, A]``."""
        mean, std = self.mean(features), self._std(temperature)
        logp, entropy = gaussian_density(record, mean, std)
        moments = (mean[:, None], std[:1].expand(len(mean), 1)) if self.exact else (None, None)
        return Scores(logp[:, None], entropy[:, None], *moments)

    def record_of(self, actions: Tensor) -> Tensor:
        """The numbers that given actions ``[N, A]`` stand for."""
        return actions if self.squash == "clip" else torch.atanh(actions.clamp(-_BOUND, _BOUND))

    def actions(self, value: Tensor) -> Tensor:
        """The action of a drawn number."""
        return value.clamp(-1.0, 1.0) if self.squash == "clip" else torch.tanh(value)

    def _std(self, temperature: float) -> Tensor:
        return self.log_std.exp() * (temperature or 1.0)


class TokenHead(nn.Module):
    """One token per number of an action, each read with the tokens before it; the step's density is their product.

    *Reference:* Brohan et al., RT-2 (2023), arXiv:2307.15818, actions as binned tokens. *Differs from paper:* the
    tokens of one action are read by a linear layer and embeddings of the earlier ones instead of a language model.
    """

    substeps = 1
    dims = 1

    def __init__(self, inputs: int, size: int, *, bins: int) -> None:
        super().__init__()
        self.size, self.bins = size, bins
        self.logits = nn.Linear(inputs, size * bins)
        self.before = nn.Parameter(torch.zeros(size, size, bins, bins))

    def draw(self, features: Tensor, noise: Noise, temperature: float) -> Drawn:
        """Draw one token after the other; temperature 0 takes the likeliest."""
        base = self.logits(features).unflatten(-1, (self.size, self.bins))
        uniform = noise.uniform(self.size).to(base)
        tokens: list[Tensor] = []
        total = torch.zeros_like(base[:, 0, 0])
        for d in range(self.size):
            scores = self._scores(base, tokens, d, temperature)
            if temperature == 0:
                token = scores.argmax(-1)
            else:
                below = scores.exp().cumsum(-1) < uniform[:, d : d + 1]
                token = below.sum(-1).clamp(max=self.bins - 1)
            tokens.append(token)
            total = total + scores.gather(-1, token[:, None]).squeeze(-1)
        record = torch.stack(tokens, 1)
        return Drawn(record, total[:, None], self.actions(record)[:, None])

    def score(self, features: Tensor, record: Tensor, temperature: float) -> Scores:
        """Score tokens ``[N, A]``; the entropy is that along the tokens taken, one sample of the whole step's."""
        base = self.logits(features).unflatten(-1, (self.size, self.bins))
        tokens = list(record.unbind(1))
        logp, entropy = torch.zeros_like(base[:, 0, 0]), torch.zeros_like(base[:, 0, 0])
        for d, token in enumerate(tokens):
            scores = self._scores(base, tokens[:d], d, temperature)
            logp = logp + scores.gather(-1, token[:, None]).squeeze(-1)
            entropy = entropy - (scores.exp() * scores).sum(-1)
        return Scores(logp[:, None], entropy[:, None])

    def record_of(self, actions: Tensor) -> Tensor:
        """The nearest token of each number."""
        return ((actions.clamp(-1.0, 1.0) + 1.0) * 0.5 * (self.bins - 1)).round().long()

    def actions(self, record: Tensor) -> Tensor:
        """The value in the middle of each token's bin."""
        return record.float() * (2.0 / (self.bins - 1)) - 1.0

    def _scores(self, base: Tensor, tokens: list[Tensor], d: int, temperature: float) -> Tensor:
        logits = base[:, d]
        for j, token in enumerate(tokens):
            logits = logits + self.before[d, j][token]
        return torch.log_softmax(logits / (temperature or 1.0), dim=-1)
