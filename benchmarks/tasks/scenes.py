"""Tasks on the scenes world, where the truth of every fact is known exactly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from mmalign.benchmarks.metrics.captions import (
    CAPTION_HEADLINE,
    CAPTION_METRICS,
    FACT_TYPES,
    caption_scores,
    label_of,
)
from mmalign.benchmarks.metrics.polling import POLLING_HEADLINE, POLLING_METRICS, polling_scores
from mmalign.benchmarks.parsers.yesno import YES_NO_PARSERS
from mmalign.benchmarks.tasks.base import CompositeTask
from mmalign.errors import UserError
from mmalign.evals.parser import Parser, pick_parser
from mmalign.types import Row
from mmalign.worlds import scenes

__all__ = [
    "ScenesCaptions",
    "ScenesPope",
    "scenes_pope_adversarial",
    "scenes_pope_popular",
    "scenes_pope_random",
]


def _info(split: str, n: int, seed: int) -> dict[str, Any]:
    if n < 1:
        raise UserError(f"n is {n}; a task needs at least one row")
    return {"source": "mmalign.worlds.scenes", "split": split, "world_seed": seed}


def _clustered(rows: Iterable[Row]) -> list[Row]:
    return [replace(row, meta={**row.meta, "cluster": str(row.meta["scene"]["id"])}) for row in rows]


class ScenesCaptions(CompositeTask):
    """Describe a scene: typed hallucination, CHAIR, coverage, fact F1 and form, all exact.

    Args:
        split: whose scenes to show.
        n: how many scenes.
        seed: which scenes of the split.
    """

    def __init__(self, *, split: str = "test", n: int = 300, seed: int = 0) -> None:
        info = _info(split, n, seed)
        super().__init__("scenes-captions", "1", "scenes-grammar.v1", CAPTION_METRICS, info, CAPTION_HEADLINE)
        self._request = (split, n, seed)

    def rows(self) -> list[Row]:
        """One captioning row per scene."""
        split, n, seed = self._request
        return _clustered(scenes.rows(split, n, seed, kind="caption"))

    def score(self, row: Row, output: Any) -> Mapping[str, Any]:
        """Check every stated fact against the scene; a caption with no sentence at all is not parsed."""
        scene = scenes.Scene.from_dict(row.meta["scene"])
        sentences = scenes.parse(str(output))
        checked = [
            (each.text, each.well_formed, [(fact, scenes.verify(fact, scene)) for fact in each.facts])
            for each in sentences
        ]
        parsed = [
            {
                "start": each.char_start,
                "end": each.char_end,
                "well_formed": each.well_formed,
                "labels": {kind: label_of(facts, kind) for kind in FACT_TYPES},
                "facts": [{"type": fact.type, "text": fact.text, "label": label} for fact, label in facts],
            }
            for each, (_, _, facts) in zip(sentences, checked, strict=True)
        ]
        scores = caption_scores(checked, scenes.true_facts(scene))
        return {"parsed": parsed, "parse_ok": bool(sentences), "scores": scores}


class ScenesPope(CompositeTask):
    """Polling questions "is there a CLASS ?" about scenes, half of them about absent classes.

    Args:
        kind: how the absent class is chosen: random, popular or adversarial.
        split: whose scenes to show.
        n: how many questions; an odd number is raised by one (a yes and a no per scene).
        seed: which scenes of the split.
        parser: a rule of :data:`~mmalign.benchmarks.parsers.yesno.YES_NO_PARSERS`.
    """

    def __init__(self, kind: str, *, split: str, n: int, seed: int, parser: str | Parser) -> None:
        self._parser = pick_parser(parser, YES_NO_PARSERS)
        name = f"scenes-pope-{kind}"
        super().__init__(
            name, "1", self._parser.label, POLLING_METRICS, _info(split, n, seed), POLLING_HEADLINE
        )
        self._request = (kind, n + n % 2, seed, split)

    def rows(self) -> list[Row]:
        """The questions, several per scene; a scene is one cluster."""
        kind, n, seed, split = self._request
        return _clustered(scenes.pope(kind, n, seed, split))

    def score(self, row: Row, output: Any) -> Mapping[str, Any]:
        """Read yes or no and compare with the label."""
        read = self._parser(str(output))
        return {"parsed": read.value, "parse_ok": read.ok, "scores": polling_scores(read, row.meta["label"])}


def scenes_pope_random(
    *, split: str = "test", n: int = 300, seed: int = 0, parser: str | Parser = "yesno"
) -> ScenesPope:
    """Absent classes drawn at random."""
    return ScenesPope("random", split=split, n=n, seed=seed, parser=parser)


def scenes_pope_popular(
    *, split: str = "test", n: int = 300, seed: int = 0, parser: str | Parser = "yesno"
) -> ScenesPope:
    """The absent class that is most frequent in training."""
    return ScenesPope("popular", split=split, n=n, seed=seed, parser=parser)


def scenes_pope_adversarial(
    *, split: str = "test", n: int = 300, seed: int = 0, parser: str | Parser = "yesno"
) -> ScenesPope:
    """The absent class that most often stands beside one that is there."""
    return ScenesPope("adversarial", split=split, n=n, seed=seed, parser=parser)
