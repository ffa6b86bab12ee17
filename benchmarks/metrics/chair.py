"""CHAIR: which objects a caption mentions, after synonyms, and which of them are not there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mmalign.errors import UserError
from mmalign.stats.composite import Composite, mean, ratio

__all__ = ["CHAIR_METRICS", "Vocabulary", "chair_scores", "read_synonyms", "singular"]

CHAIR_METRICS: Mapping[str, Composite] = {
    "chair_i": ratio("mentions_false", "mentions", False),
    "chair_s": mean("any_false", False),
    "coverage": ratio("found", "wanted", True),
    "mentions_per_caption": mean("mentions", rate=False),
    "words_per_caption": mean("words", rate=False),
}
"""CHAIR alone rewards silence, so coverage and length stand beside it."""

_IRREGULAR = {
    "people": "person", "men": "man", "women": "woman", "children": "child", "mice": "mouse", "geese": "goose",
    "knives": "knife", "wolves": "wolf", "calves": "calf", "feet": "foot", "teeth": "tooth", "leaves": "leaf",
    "buses": "bus", "oxen": "ox", "loaves": "loaf", "shelves": "shelf", "scarves": "scarf", "halves": "half",
}  # fmt: skip
_ALREADY_SINGULAR = {
    "scissors",
    "skis",
    "tennis",
    "bus",
    "gas",
    "glass",
    "grass",
    "dress",
    "cactus",
    "lens",
    "chess",
}
_YOUNG_OR_GROWN = {"baby", "adult"}
_PASSENGER = {"jet", "train"}


def singular(word: str) -> str:
    """Return the singular of an English noun by rule and a short list of exceptions."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word in _ALREADY_SINGULAR or len(word) < 4 or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "xes", "sses", "zes", "oes")):
        return word[:-2]
    return word.removesuffix("s")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Object names with their synonyms: ``names`` maps every spelling to its canonical object."""

    names: Mapping[str, str]

    def canonical(self, name: str) -> str | None:
        """Return the canonical object of a spelling, or None when it is no object of the vocabulary."""
        words = [singular(word) for word in name.lower().split()]
        return self.names.get(" ".join(words), self.names.get(name.lower()))

    def mentions(self, caption: str) -> list[str]:
        """Return the canonical objects a caption mentions, with repeats, longest name first.

        "baby/adult ANIMAL" is that animal, "passenger jet/train" that vehicle, and a toilet seat a toilet.
        """
        words = [singular(word) for word in re.findall(r"[a-z]+", caption.lower())]
        longest = max((name.count(" ") + 1 for name in self.names), default=1)
        found, at = [], 0
        while at < len(words):
            if words[at : at + 2] == ["toilet", "seat"] and "toilet" in self.names:
                found.append(self.names["toilet"])
                at += 2
                continue
            at += words[at] in _YOUNG_OR_GROWN and at + 1 < len(words) and words[at + 1] in self.names
            at += words[at] == "passenger" and at + 1 < len(words) and words[at + 1] in _PASSENGER
            for size in range(min(longest, len(words) - at), 0, -1):
                name = self.names.get(" ".join(words[at : at + size]))
                if name is not None:
                    found.append(name)
                    at += size
                    break
            else:
                at += 1
        return found


def read_synonyms(path: str | Path | None, objects: Iterable[str] = ()) -> Vocabulary:
    """Build a vocabulary from a file with one object a line, ``canonical, synonym, synonym``.

    Args:
        path: the file; None makes every name of ``objects`` its own only spelling.
        objects: names that stand for themselves where the file does not know them.

    Raises:
        UserError: when the file is missing or one spelling belongs to two objects.
    """
    names: dict[str, str] = {}
    if path is not None:
        if not Path(path).is_file():
            raise UserError(
                f"{path}: no such synonyms file; expected one object a line: canonical, synonym, ..."
            )
        for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
            spellings = [part.strip().lower() for part in line.split(",") if part.strip()]
            for spelling in spellings:
                key = " ".join(singular(word) for word in spelling.split())
                if names.setdefault(key, spellings[0]) != spellings[0]:
                    raise UserError(f'{path}:{number}: "{spelling}" already belongs to "{names[key]}"')
    for name in objects:
        names.setdefault(" ".join(singular(word) for word in name.lower().split()), name.lower())
    return Vocabulary(names)


def chair_scores(
    caption: str, objects: Iterable[str], vocabulary: Vocabulary
) -> tuple[dict[str, int], dict[str, list[str]]]:
    """Return the counts of one caption, and the mentioned and hallucinated objects.

    ``mentions`` counts repeats, as the reference does; ``found`` counts distinct true objects.
    """
    truth = {name for name in map(vocabulary.canonical, objects) if name is not None}
    mentioned = vocabulary.mentions(caption)
    false = [name for name in mentioned if name not in truth]
    scores = {
        "mentions": len(mentioned),
        "mentions_false": len(false),
        "any_false": int(bool(false)),
        "found": len(truth & set(mentioned)),
        "wanted": len(truth),
        "words": len(caption.split()),
    }
    return scores, {"mentioned": mentioned, "hallucinated": false}
