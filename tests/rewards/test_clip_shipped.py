"""The shipped CLIP model on held-out pairs."""

from __future__ import annotations

import numpy as np
import torch

from mmalign.rewards.clip import ClipScore
from mmalign.worlds import drawings


def tensors(pictures: list[object]) -> torch.Tensor:
    stacked = np.stack([np.asarray(p) for p in pictures])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 255


def test_it_sees_colours_shapes_and_numbers_of_held_out_pairs_and_hardly_relations() -> None:
    reward = ClipScore()
    rows = drawings.rows("validation", 300, 5, "preference")
    good = reward.score(rows, tensors([row.chosen for row in rows]))
    bad = reward.score(rows, tensors([row.rejected for row in rows]))
    flaws = np.array([row.meta["flaw"] for row in rows])
    right = (good > bad).numpy()
    for flaw in drawings.FLAWS:
        least = 0.4 if flaw == "relation" else 0.9
        assert right[flaws == flaw].mean() > least, flaw
