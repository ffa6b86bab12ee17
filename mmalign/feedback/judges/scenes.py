"""The oracle of the scenes world: it reads the scene, not the picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from mmalign.errors import UserError
from mmalign.rng import numpy_generator
from mmalign.types import Row

__all__ = ["SceneJudge"]


class SceneJudge:
    """Verify facts against ``row.meta["scene"]``, exactly or with label noise.

    Args:
        label_noise: share of -1/+1 labels that are flipped; which ones depends on the seed, the
            scene and the fact alone, so asking again gives the same answer.
        seed: seed of the noise.

    Raises:
        UserError: when ``label_noise`` is not in [0, 1].
    """

    name = "scenes"

    def __init__(self, label_noise: float = 0.0, seed: int = 0) -> None:
        if not 0.0 <= label_noise <= 1.0:
            raise UserError(f"label_noise: expected a share in [0, 1], found {label_noise}.")
        self.label_noise = label_noise
        self.seed = seed
        self.version = "1" if not label_noise else f"1-noise{label_noise}-seed{seed}"

    def evidence(self, row: Row) -> str:
        """What the verdict depends on: the scene itself."""
        return json.dumps(self._scene(row), sort_keys=True)

    def verify(self, row: Row, facts: Sequence[Any]) -> list[int]:
        """One label per fact: -1 false, 0 not applicable, +1 true.

        Raises:
            UserError: when the row does not come from the scenes world.
        """
        from mmalign.worlds.scenes import Fact, Scene, verify

        scene = Scene.from_dict(self._scene(row))
        labels = [verify(Fact(fact.type, tuple(fact.key)), scene) for fact in facts]
        if not self.label_noise:
            return labels
        where = self.evidence(row)
        return [
            -label if self._flipped(where, fact) else label for label, fact in zip(labels, facts, strict=True)
        ]

    def _flipped(self, where: str, fact: Any) -> bool:
        rng = numpy_generator(self.seed, "label-noise", where, fact.type, *fact.key)
        return bool(rng.random() < self.label_noise)

    def _scene(self, row: Row) -> dict[str, Any]:
        if "scene" not in row.meta:
            raise UserError(
                f'row {row.id!r}: meta has no "scene", which the judge "scenes" reads; '
                'use the judge "hf", "endpoint" or "human" for pictures of your own.'
            )
        scene: dict[str, Any] = row.meta["scene"]
        return scene
