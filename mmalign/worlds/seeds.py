"""A world of bare seeds: rows for environments that know nothing of a world but begin an episode from a number."""

from __future__ import annotations

from mmalign.errors import UserError
from mmalign.rng import derive_seed
from mmalign.types import Row

__all__ = ["BASES", "SPLITS", "rows"]

BASES = ("robot:0", "robot:1")
"""The start models: fresh policies, which the robot adapter makes from their seeds and its options."""
SPLITS = ("train", "validation", "test")


def rows(split: str, n: int, seed: int = 0, kind: str = "start") -> list[Row]:
    """The first ``n`` seeds of a split as prompts; two splits share one with odds of 1 in 2^31 per pair.

    Raises:
        UserError: for an unknown split, or ``preference`` rows, of which there are none.
    """
    if split not in SPLITS:
        raise UserError(f'seeds: split "{split}" is not one of {", ".join(SPLITS)}')
    if kind == "preference":
        raise UserError("seeds: there are no compared episodes of an environment that is not known")
    found = [derive_seed(seed, "seeds", split, i) % 2**31 for i in range(n)]
    return [
        Row(id=f"seed-{split}-{seed}-{i}", prompt=str(number), meta={"seed": number})
        for i, number in enumerate(found)
    ]
