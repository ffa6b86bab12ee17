"""Run answers through a trunk and take out what a head reads after each real step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from mmalign.errors import UserError
from mmalign.protocols import Likelihood
from mmalign.rewards.preference.data import prompt_id
from mmalign.rewards.preference.options import Read
from mmalign.types import Row

__all__ = ["NUMBERS", "Reading", "feature_sizes", "hidden_size", "padded", "read_rows"]

NUMBERS = 2
"""Plain numbers of a step, beside its states or alone: log-probability and entropy."""
FLOOR = 12.0


@dataclass(frozen=True, slots=True)
class Reading:
    """One answer as the head sees it.

    Args:
        features: ``[n, F]``, one row per real step.
        logp: ``[n]`` log-probability of each step under the trunk, in nats.
    """

    features: Tensor
    logp: Tensor


def feature_sizes(width: int, read: Read) -> list[int]:
    """Sizes of the parts of ``features``: states of width ``H``, two numbers, or both."""
    return {"state": [width], "surprise": [width, width, NUMBERS], "likelihood": [NUMBERS]}[read]


@torch.no_grad()
def hidden_size(adapter: Likelihood, trunk: nn.Module, probe: Row) -> int:
    """Width ``H`` of the trunk's hidden states, found by one pass.

    Raises:
        UserError: when the modality gives none.
    """
    hidden = adapter.logp(trunk, adapter.collate([probe]), hidden=True).hidden
    if hidden is None:
        raise UserError(f"modality {adapter.name!r} gives no hidden states, which a reward model reads.")
    return int(hidden.shape[-1])


def read_rows(
    adapter: Likelihood, trunk: nn.Module, rows: Sequence[Row], read: Read, batch_size: int | None = None
) -> list[Reading]:
    """Read every row, those of one prompt side by side (adapters may share it); the result is in the given order.

    Args:
        adapter: the modality.
        trunk: the model that reads.
        rows: answered rows, as the reward model is shown them.
        read: what is taken of each step.
        batch_size: rows per pass, or ``None`` for all at once.
    """
    keys = [(len(str(row.prompt)), prompt_id(row), len(str(row.completion))) for row in rows]
    order = sorted(range(len(rows)), key=keys.__getitem__)
    size = batch_size or max(len(order), 1)
    found: dict[int, Reading] = {}
    for start in range(0, len(order), size):
        picked = order[start : start + size]
        out = adapter.logp(
            trunk, adapter.collate([rows[i] for i in picked]), hidden=True, entropy=read != "state"
        )
        if out.hidden is None:
            raise UserError(f"modality {adapter.name!r} gives no hidden states, which a reward model reads.")
        for b, i in enumerate(picked):
            n = int(out.mask[b].sum())
            states, logp = out.hidden[b, : n + 1].float(), out.values[b, :n].float()
            features = states[1:]
            if read != "state":
                assert out.entropy is not None
                numbers = torch.stack([logp, out.entropy[b, :n].float()], dim=1).clamp(-FLOOR, FLOOR) / 3.0
                around = [states[:-1], states[1:]] if read == "surprise" else []
                features = torch.cat([*around, numbers], dim=1)
            found[i] = Reading(features, logp)
    return [found[i] for i in range(len(rows))]


def padded(readings: Sequence[Reading]) -> tuple[Tensor, Tensor]:
    """Features ``[B, T, F]`` and mask ``[B, T]`` of readings of different lengths."""
    features = pad_sequence([reading.features for reading in readings], batch_first=True)
    lengths = torch.tensor([len(reading.features) for reading in readings], device=features.device)
    steps = torch.arange(features.shape[1], device=features.device)
    return features, steps[None, :] < lengths[:, None]
