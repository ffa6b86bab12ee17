"""Drawing what a prompt asks for, checked by two detectors that know the truth in different ways."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mmalign.benchmarks.metrics.drawings import (
    DRAWING_HEADLINE,
    DRAWING_METRICS,
    drawing_scores,
    spread,
)
from mmalign.benchmarks.tasks.base import CompositeTask
from mmalign.errors import UserError
from mmalign.types import Row
from mmalign.worlds import drawings

__all__ = ["Drawings"]


class Drawings(CompositeTask):
    """Small pictures from prompts: exact share, bound objects, colour, shape, count, relation and extras, all exact.

    Every picture is read by the template matcher and by the network; figures are the matcher's unless their name ends
    in ``network``.  Intervals resample prompts.

    Args:
        split: whose prompts; pairs of objects of ``test`` are in no training prompt.
        n: how many pictures.
        seed: which prompts of the split.
        kind: one of ``PROMPT_KINDS``, or "" for all.
        repeats: pictures per prompt, at least 2 for a figure of diversity; ``n`` must be a multiple.

    Raises:
        UserError: when a number is out of range.
    """

    def __init__(
        self, *, split: str = "test", n: int = 300, seed: int = 0, kind: str = "", repeats: int = 1
    ) -> None:
        if n < 1 or repeats < 1 or n % repeats:
            raise UserError(f"n must be a positive multiple of repeats, found n {n} and repeats {repeats}")
        info = {"source": "mmalign.worlds.drawings", "split": split, "world_seed": seed}
        super().__init__("drawings", "1", "detectors.v1", DRAWING_METRICS, info, DRAWING_HEADLINE)
        self._request = (split, n // repeats, seed, kind, repeats)

    def rows(self) -> list[Row]:
        """One row per picture to draw; a prompt is one cluster."""
        split, n, seed, kind, repeats = self._request
        asked = drawings.rows(split, n, seed, "prompt", prompt_kind=kind)
        if repeats == 1:
            return asked
        return [replace(row, id=f"{row.id}-{k}") for row in asked for k in range(repeats)]

    def score(self, row: Row, output: Any) -> Mapping[str, Any]:
        """Read the picture with both detectors; an answer that is no picture is not parsed and wrong everywhere."""
        wish = drawings.read_prompt(str(row.prompt))
        try:
            picture = drawings.pixels_of(output)
        except UserError as error:
            blank = drawings.Reading((), (0, 1, 2, 3))
            return {
                "parsed": str(error),
                "parse_ok": False,
                "scores": drawing_scores(wish, dict.fromkeys(drawings.DETECTORS, blank)),
            }
        readings = {name: drawings.detect([picture], name)[0] for name in drawings.DETECTORS}
        seen = {
            name: [f"{o.color} {o.cls} in cell {o.row * 2 + o.col + 1}" for o in reading.objects]
            + [f"unreadable cell {cell + 1}" for cell in reading.unreadable]
            for name, reading in readings.items()
        }
        small = picture.reshape(16, 2, 16, 2, 3).mean((1, 3)).round().astype("uint8")
        parsed = {**seen, "thumbnail": base64.b64encode(small.tobytes()).decode()}
        return {"parsed": parsed, "parse_ok": True, "scores": drawing_scores(wish, readings)}

    def metrics(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """Every composite with its interval, and diversity where some prompt was drawn more than once."""
        found = super().metrics(samples)
        by_prompt: dict[str, list[bytes]] = defaultdict(list)
        for sample in samples:
            if sample.get("parse_ok"):
                by_prompt[str(sample["cluster"])].append(base64.b64decode(sample["parsed"]["thumbnail"]))
        repeated = [thumbnails for thumbnails in by_prompt.values() if len(thumbnails) > 1]
        return {**found, "diversity": spread(repeated)} if repeated else found
