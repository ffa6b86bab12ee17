"""One seed, many named random streams.

Every stream is derived from ``(seed, *names)`` by SHA-256, so adding a consumer of randomness never
shifts another one's draws, and a resumed run can rebuild any stream from its name alone.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

__all__ = ["derive_seed", "generator", "numpy_generator"]


def derive_seed(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed that depends on ``seed`` and every name (order matters)."""
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> torch.Generator:
    """Return a CPU ``torch.Generator`` for the named stream."""
    import torch

    return torch.Generator().manual_seed(derive_seed(seed, *names))


def numpy_generator(seed: int, *names: str | int) -> np.random.Generator:
    """Return a numpy ``Generator`` for the named stream."""
    return np.random.default_rng(derive_seed(seed, *names))
