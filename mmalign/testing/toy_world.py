"""The toy modality's world: rows by split, a judge that knows the truth, and what a word states.

With it a whole recipe runs on the toy modality in seconds::

    mmalign run toy --output_dir runs/toy
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mmalign.feedback.facts import Fact
from mmalign.rng import derive_seed
from mmalign.stats.intervals import wilson
from mmalign.testing.policies import toy_answer, toy_rows
from mmalign.testing.toy_model import VOCABULARY
from mmalign.types import Row

__all__ = ["BASES", "CYCLE", "ToyCycle", "ToyExtractor", "ToyJudge", "ToyTask", "rows"]

BASES = ("toy:1", "toy:2")
"""The start models: fresh networks, which ``ToyAdapter.load`` makes from their seeds."""

_SEEN, _SAID = VOCABULARY[3:6], VOCABULARY[6:9]


def rows(split: str, n: int, seed: int, kind: str = "caption") -> list[Row]:
    """``n`` rows of a split; the same split and seed always give the same rows, no two splits share one."""
    made = toy_rows(n, derive_seed(seed, "toy", split) % 2**31)
    if kind in ("caption", "preference"):
        return made
    return [replace(row, completion=None) for row in made]


class ToyExtractor:
    """Reads each segment: a word of the first kind is an ``object`` fact, of the second an ``attribute``."""

    def extract(self, text: str) -> list[list[Fact]]:
        """One list of facts per segment of ``text``."""
        return [_facts(part.split()) for part in text.split(".") if part.strip()]

    def well_formed(self, text: str) -> bool:
        """True when the text is one word of either kind and a full stop."""
        words = text.removesuffix(".").split()
        return len(words) == 1 and bool(_facts(words))


class ToyJudge:
    """Knows what a row's vector shows and what its prompt says."""

    name = "toy"

    def __init__(self, *, label_noise: float = 0.0, seed: int = 0) -> None:
        self.label_noise = label_noise
        self.seed = seed

    def verify(self, row: Row, facts: Sequence[Fact]) -> list[int]:
        """+1 where the fact names what the row shows or says, else -1; a share of labels is flipped."""
        truth = {_SEEN[row.meta["seen"]], _SAID[row.meta["said"]]}
        labels = []
        for fact in facts:
            draw = derive_seed(self.seed, row.id, *fact.key) % 10_000 / 10_000
            label = 1 if fact.key[0] in truth else -1
            labels.append(-label if draw < self.label_noise else label)
        return labels


CYCLE = (
    (0.5, 0.9, 0.3, 0.95),
    (0.1, 0.5, 0.8, 0.95),
    (0.7, 0.2, 0.5, 0.95),
    (0.05, 0.05, 0.05, 0.5),
)
"""Probability that row beats column: words that are seen go in a biased circle, and any of them beats other answers."""


class ToyCycle:
    """Compares answers by their first word, in a circle: no reward can express what it likes."""

    name = "toy-cycle"

    def compare(self, row: Row, first: str, second: str) -> float:
        """The entry of :data:`CYCLE` for the two first words."""
        del row
        return CYCLE[_kind(first)][_kind(second)]


class ToyTask:
    """Exact match with the right answer."""

    name = "toy"
    version = "1"
    parser = "exact.v1"

    def __init__(self, *, split: str = "test", n: int = 64, seed: int = 0) -> None:
        self.split, self.n, self.seed = split, n, seed

    def rows(self) -> list[Row]:
        """The prompts."""
        return rows(self.split, self.n, self.seed, "prompt")

    def score(self, row: Row, output: Any) -> Mapping[str, Any]:
        """1 for the right answer, else 0."""
        right = float(str(output).strip() == toy_answer(row))
        return {"parsed": str(output), "parse_ok": bool(str(output).strip()), "scores": {"accuracy": right}}

    def metrics(self, samples: Sequence[Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
        """Accuracy with a Wilson interval."""
        right = sum(int(sample["scores"]["accuracy"]) for sample in samples)
        return {"accuracy": {**wilson(right, len(samples)).as_dict(), "higher_is_better": True}}


def _kind(answer: str) -> int:
    """The place of the answer's first word among those that can be seen, 3 for any other."""
    word = (str(answer).split() or [""])[0]
    return _SEEN.index(word) if word in _SEEN else len(_SEEN)


def _facts(words: Sequence[str]) -> list[Fact]:
    kinds = [("object", _SEEN), ("attribute", _SAID)]
    return [Fact(kind, (word,), word) for word in words for kind, known in kinds if word in known]
