"""A reward of state, action and user, and the encoder that reads the user off a set of comparisons in any order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mmalign.errors import UserError
from mmalign.objectives.variational_preference import gaussian_kl, preference_logits, user_posterior, vpl_loss
from mmalign.types import Row
from mmalign.worlds.sweep import Episode

__all__ = ["STEPS", "UserReward", "UserSet", "segment", "stacked"]

STEPS = 16
"""Evenly spaced steps of an episode that are compared."""
_WEIGHTS, _RECORD = "model.safetensors", "vpl.json"


@dataclass(frozen=True)
class UserSet:
    """Comparisons of one user: ``better`` and ``worse`` ``[N, S, D]`` (state and action), ``contested`` ``[N]``."""

    row: Row
    user: int
    better: Tensor
    worse: Tensor
    contested: Tensor

    @property
    def rows(self) -> tuple[Row, ...]:
        """The row of the first comparison."""
        return (self.row,)


def stacked(episode: Episode) -> Tensor:
    """State and action of every step, ``[T, D + A]``."""
    return torch.from_numpy(np.concatenate([episode.observations[:-1], episode.actions], axis=1)).float()


def segment(episode: Episode) -> Tensor:
    """The same of :data:`STEPS` evenly spaced steps; short episodes repeat some."""
    last = len(episode) - 1
    return stacked(episode)[[round(k * last / (STEPS - 1)) for k in range(STEPS)]]


class UserReward(nn.Module):
    """``r(s, a, z)`` and ``q(z | comparisons)``.

    Args:
        inputs: numbers of state and action.
        latent: numbers of z; 0 is one reward for all (plain Bradley-Terry on the same network).
        width: of the layers.
        kl_weight: of the KL to the standard normal prior.
        seed: of the weights.
    """

    def __init__(
        self, inputs: int, latent: int = 4, width: int = 64, kl_weight: float = 0.1, seed: int = 0
    ) -> None:
        super().__init__()
        self.inputs, self.latent, self.kl_weight = inputs, latent, kl_weight
        self.trunks: dict[str, nn.Module] = {}
        self.contexts: dict[int, tuple[Tensor, Tensor]] = {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.reader = nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width))
            self.factor = nn.Sequential(
                nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, 2 * max(latent, 1))
            )
            self.net = nn.Sequential(
                nn.Linear(inputs + latent, width),
                nn.SiLU(),
                nn.Linear(width, width),
                nn.SiLU(),
                nn.Linear(width, 1),
            )
        if not latent:
            for part in (self.reader, self.factor):
                part.requires_grad_(False)

    def posterior(self, better: Tensor, worse: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance ``[B, Z]`` of the user behind sets ``[B, N, S, D]`` with ``mask`` ``[B, N]``.

        A comparison is read as (better, worse): giving it the other way round with the other label changes nothing.
        """
        if not self.latent:
            none = better.new_zeros(len(better), 0)
            return none, none
        read = [self.reader(segments).mean(2) for segments in (better, worse)]
        centre, precision = self.factor(torch.cat([read[0] - read[1], read[0] + read[1]], -1)).chunk(2, -1)
        bounded = 2.0 * torch.tanh(
            centre / 2.0
        )  # a far mean must come with precision, or the variance says nothing
        return user_posterior(bounded, 4.0 * torch.tanh(precision / 4.0), mask)

    def rewards(self, steps: Tensor, z: Tensor) -> Tensor:
        """Reward ``[..., S]`` of steps ``[..., S, D]`` for a user ``z`` ``[..., Z]``."""
        user = z.unsqueeze(-2).expand(*steps.shape[:-1], self.latent)
        value: Tensor = self.net(torch.cat([steps, user], -1)).squeeze(-1)
        return value

    def logits(self, better: Tensor, worse: Tensor, z: Tensor) -> Tensor:
        """Log-odds ``[B, N]`` that a user ``z`` ``[B, Z]`` prefers ``better`` ``[B, N, S, D]``."""
        user = z[:, None].expand(-1, better.shape[1], -1)
        return preference_logits(self.rewards(better, user), self.rewards(worse, user))

    def loss(self, items: Sequence[UserSet]) -> tuple[Tensor, dict[str, float]]:
        """The evidence bound of sets of one size, z drawn from torch's own stream (seeded by the step)."""
        better, worse = (torch.stack([getattr(i, name) for i in items]) for name in ("better", "worse"))
        mask = torch.ones(better.shape[:2], dtype=torch.bool)
        mean, log_var = self.posterior(better, worse, mask)
        z = mean + (0.5 * log_var).exp() * torch.randn(mean.shape)
        logits = self.logits(better, worse, z)
        zero = torch.zeros_like(mean[:1])
        kl = gaussian_kl(mean, log_var, zero, zero)
        value = vpl_loss(logits, torch.ones_like(logits), mask, kl, self.kl_weight)
        return value, {"accuracy": float((logits > 0).float().mean()), "kl": float(kl.detach().mean())}

    def save(self, folder: Path) -> None:
        """Write the weights and the comparisons of the people it was made for."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"net/{name}": value.contiguous() for name, value in self.state_dict().items()}
        for user, (better, worse) in self.contexts.items():
            tensors |= {f"better/{user}": better.contiguous(), f"worse/{user}": worse.contiguous()}
        save_file(tensors, folder / _WEIGHTS)
        record = {"kind": "vpl", "inputs": self.inputs, "latent": self.latent, "users": sorted(self.contexts)}
        (folder / _RECORD).write_text(json.dumps(record) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> UserReward:
        """What :meth:`save` wrote.

        Raises:
            UserError: when the folder holds none.
        """
        from safetensors.torch import load_file

        file = folder / _RECORD
        if not file.is_file():
            raise UserError(f"{folder}: holds no reward with users ({_RECORD}); run the stage reward_model")
        record = json.loads(file.read_text(encoding="utf-8"))
        model, read = cls(record["inputs"], record["latent"]), load_file(folder / _WEIGHTS)
        weights = {
            name.removeprefix("net/"): value for name, value in read.items() if name.startswith("net/")
        }
        model.load_state_dict(weights)
        model.contexts = {user: (read[f"better/{user}"], read[f"worse/{user}"]) for user in record["users"]}
        return model
