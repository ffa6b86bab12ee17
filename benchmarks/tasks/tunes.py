"""Draw pieces for captions of the tunes world: exact adherence, quality, distance to real pieces, diversity, level."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from mmalign.benchmarks.metrics.audio import diversity, frechet_distance
from mmalign.benchmarks.tasks.base import CompositeTask
from mmalign.errors import UserError
from mmalign.stats.composite import Composite, mean, ratio
from mmalign.types import Row
from mmalign.worlds import tunes
from mmalign.worlds.tunes.hearing import heard
from mmalign.worlds.tunes.listener import EAR, JUDGE, Listener, attributes_heard
from mmalign.worlds.tunes.quality import Quality
from mmalign.worlds.tunes.reference import Reference
from mmalign.worlds.tunes.signals import MEASURED, measured_attributes
from mmalign.worlds.tunes.towers import Towers

__all__ = ["Tunes"]

_NAMES = tuple(tunes.ATTRIBUTES)


def _composites() -> dict[str, Composite]:
    found = {"adherence/all": ratio([f"hit_{a}" for a in _NAMES], [f"asked_{a}" for a in _NAMES], True)}
    for name in _NAMES:
        found[f"adherence/{name}"] = ratio(f"hit_{name}", f"asked_{name}", True)
    found["adherence_measured/all"] = ratio(
        [f"measured_{a}" for a in MEASURED], [f"asked_{a}" for a in MEASURED], True
    )
    for name in MEASURED:
        found[f"adherence_measured/{name}"] = ratio(f"measured_{name}", f"asked_{name}", True)
    return found | {
        "adherence/every_mention": mean("all_right", True),
        "mos": mean("mos", True, rate=False),
        "text_cosine": mean("cosine", True, rate=False),
        "level_db": mean("level_db", rate=False),
        "silent": mean("silent", False),
    }


_HEADLINE = (
    "adherence/all",
    *(f"adherence/{a}" for a in _NAMES),
    "adherence_measured/all",
    "mos",
    "fad",
    "diversity",
)


@functools.cache
def _ears() -> tuple[Listener, Listener, Quality, Towers]:
    return Listener.load(JUDGE), Listener.load(EAR), Quality.load(), Towers.load()


class Tunes(CompositeTask):
    """Captions that mention three to six attributes; every caption is answered several times.

    ``adherence/*`` is the share of mentions that the judge's net hears, ``adherence_measured/*`` the same by signal
    processing alone (no timbre).  ``mos`` is guessed by a net that knows five kinds of damage.  ``fad`` is the Frechet
    distance of the ear's features to real pieces; ``fad_floor`` is that of as many real pieces, which is what ``fad``
    cannot go below except by chance.  ``diversity`` is the mean distance of two answers to one caption, in the same
    features.  Intervals resample captions.

    Args:
        split: whose captions (combinations of attributes of one split are in no other).
        n: how many captions.
        seed: which captions of the split.
        answers: how often each is answered.
    """

    def __init__(self, *, split: str = "test", n: int = 150, seed: int = 0, answers: int = 2) -> None:
        if n < 1 or answers < 1:
            raise UserError(f"n is {n} and answers {answers}; a task needs at least one row")
        info = {"source": "mmalign.worlds.tunes", "split": split, "world_seed": seed, "answers": answers}
        super().__init__("tunes", "1", "tunes-judge.v1", _composites(), info, _HEADLINE)
        self._request = (split, n, seed, answers)

    def rows(self) -> list[Row]:
        """The captions, each ``answers`` times in a row."""
        split, n, seed, answers = self._request
        return [
            replace(row, id=f"{row.id}.{k}", meta={**row.meta, "cluster": row.id})
            for row in tunes.rows(split, n, seed, "prompt")
            for k in range(answers)
        ]

    @torch.no_grad()
    def score(self, row: Row, output: Any) -> Mapping[str, Any]:
        """Listen to one piece and compare with what was asked."""
        judge, ear, quality, towers = _ears()
        bands = heard([output])
        found, measured = attributes_heard(judge, bands)[0], measured_attributes(bands)[0]
        asked: Mapping[str, str] = row.meta["asked"]
        loudness = float(20 * np.log10(float(bands.exp().pow(2).sum(2).mean().sqrt()) + 1e-9))
        scores: dict[str, float] = {  # what is asked first: reports show scores in this order
            "adherence": sum(found[name] == value for name, value in asked.items()) / len(asked),
            "all_right": float(all(found[name] == value for name, value in asked.items())),
            "mos": float(quality.score(bands)[0]),
            "cosine": float(towers.cosine([str(row.prompt)], bands)[0]),
            "level_db": loudness,
            "silent": float(loudness < _SILENT_DB),
        }
        for name in _NAMES:
            scores[f"asked_{name}"] = int(name in asked)
            scores[f"hit_{name}"] = int(found[name] == asked.get(name))
        for name in MEASURED:
            scores[f"measured_{name}"] = int(measured[name] == asked.get(name))
        features = [round(float(x), 4) for x in ear.trunk(bands)[0]]
        parsed = {"heard": found, "measured": measured, "ear": features}
        return {"parsed": parsed, "parse_ok": True, "scores": scores}

    def metrics(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """Shares and means with intervals; distances and diversity of the whole set without."""
        good = [sample for sample in samples if (sample.get("parsed") or {}).get("ear")]
        found = super().metrics(samples)
        if len(good) < 2:
            return found
        features = np.array([sample["parsed"]["ear"] for sample in good])
        reference = Reference.load(self._request[0])
        scaled = features / reference.scale
        distance = _distance(reference, scaled)
        n, kind = len(good), f"{features.shape[1]} features of the ear"
        found["fad"] = _plain(distance, n, kind, False)
        real = reference.real[:n]
        floor = _distance(reference, real) if len(real) == n else None
        found["fad_floor"] = _plain(floor, n, f"real pieces, {kind}", None)
        spread = diversity(scaled, [str(sample.get("cluster", sample["id"])) for sample in good])
        found["diversity"] = _plain(spread, n, "mean distance within a caption", True)
        return found


_SILENT_DB = -30.0
"""Level below which a piece counts as silent; soft real pieces are near 16 dB on this scale."""


def _distance(reference: Reference, features: np.ndarray[Any, Any]) -> float:
    return frechet_distance(reference.mean, reference.cov, features.mean(0), np.cov(features, rowvar=False))


def _plain(value: float | None, n: int, method: str, higher: bool | None) -> dict[str, Any]:
    return {
        "value": value,
        "ci_low": None,
        "ci_high": None,
        "method": method,
        "n": n,
        "higher_is_better": higher,
    }
