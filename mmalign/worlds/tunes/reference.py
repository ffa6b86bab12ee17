"""What real pieces are like in the ear's features: the reference of the Frechet distance, shipped as statistics."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmalign.errors import UserError
from mmalign.worlds.tunes.codec import BandCodec
from mmalign.worlds.tunes.corpus import make_pool
from mmalign.worlds.tunes.listener import Listener, load_weights

__all__ = ["REFERENCE", "Reference", "make_reference"]

REFERENCE = Path(__file__).parent / "nets" / "reference.safetensors"
"""Statistics of validation and test pieces."""
_PIECES, _REAL = 900, 300


@dataclass(frozen=True, slots=True)
class Reference:
    """Features of real pieces of a split, through the codec, divided by ``scale``.

    Args:
        scale: standard deviation of each feature over the reference, ``[D]``.
        mean: of scaled features, ``[D]``.
        cov: of scaled features, ``[D, D]``.
        real: scaled features of further pieces ``[300, D]``, for the distance of real from real.
    """

    scale: NDArray[np.float64]
    mean: NDArray[np.float64]
    cov: NDArray[np.float64]
    real: NDArray[np.float64]

    @classmethod
    def load(cls, split: str) -> Reference:
        """The shipped reference of ``validation`` or ``test``.

        Raises:
            UserError: for a split that has none.
        """
        parts = _read()
        if f"{split}.mean" not in parts:
            raise UserError(f'split "{split}" has no reference pieces; validation and test have')
        return cls(*(parts[f"{split}.{name}"] for name in ("scale", "mean", "cov", "real")))


@functools.cache
def _read() -> dict[str, NDArray[np.float64]]:
    return {name: part.double().numpy() for name, part in load_weights(REFERENCE).items()}


@torch.no_grad()
def make_reference(ear: Listener, codec: BandCodec) -> dict[str, torch.Tensor]:
    """Compute the statistics, as they are written to :data:`REFERENCE`."""
    parts: dict[str, torch.Tensor] = {}
    for split in ("validation", "test"):
        pool = make_pool(split, _PIECES + _REAL, 0, "reference")
        codes = pool.codes(codec).long()
        found = torch.cat([ear.trunk(codec.bands(part)) for part in codes.split(100)]).double()
        base, more = found[:_PIECES], found[_PIECES:]
        scale = base.std(0).clamp(min=1e-3)
        named: dict[str, Any] = {
            "scale": scale,
            "mean": (base / scale).mean(0),
            "cov": torch.cov((base / scale).T),
            "real": more / scale,
        }
        parts |= {f"{split}.{name}": part.float().contiguous() for name, part in named.items()}
    return parts
