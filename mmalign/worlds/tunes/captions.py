"""Captions of pieces: which attributes are mentioned, in which of two words each, in which phrasing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mmalign.worlds.tunes.tune import ATTRIBUTES, Tune

__all__ = [
    "CONFUSED",
    "MAX_WORDS",
    "MENTIONED",
    "WORDS",
    "CaptionNoise",
    "asked_of",
    "phrase",
    "read_caption",
    "vocabulary",
]

WORDS: dict[str, dict[str, tuple[str, str]]] = {
    "timbre": {
        "flute": ("flute", "whistle"),
        "reed": ("reed", "clarinet"),
        "strings": ("strings", "violins"),
        "bell": ("bell", "chime"),
        "guitar": ("guitar", "lute"),
    },
    "tempo": {"slow": ("slow", "unhurried"), "medium": ("moderate", "walking"), "fast": ("fast", "quick")},
    "mode": {"major": ("major", "cheerful"), "minor": ("minor", "sad")},
    "register": {"low": ("low", "deep"), "middle": ("middle", "central"), "high": ("high", "treble")},
    "dynamics": {
        "soft": ("soft", "quiet"),
        "loud": ("loud", "strong"),
        "growing": ("growing", "swelling"),
    },
    "contour": {
        "rising": ("rising", "climbing"),
        "falling": ("falling", "descending"),
        "arching": ("arching", "curved"),
    },
}
"""Attribute -> value -> the two words for it; no word stands twice."""
MENTIONED = (3, 4, 5, 6)
"""How many attributes a caption mentions, each number equally often."""
CONFUSED = {
    "flute": "reed",
    "reed": "flute",
    "strings": "guitar",
    "guitar": "strings",
    "medium": "fast",
    "fast": "medium",
    "rising": "arching",
    "arching": "rising",
}
"""Values that careless captions take for one another."""


@dataclass(frozen=True, slots=True)
class CaptionNoise:
    """How captions of training data go wrong.

    Args:
        habit: chance of a mention of a value of :data:`CONFUSED` to name the other one, a systematic error.
        random: chance of any mention to be drawn anew among all values of its attribute.
    """

    habit: float = 0.65
    random: float = 0.08


_PLAIN = ("a", "tune", "on", "the", "plays", "something", "and", ",", "music", "for", "melody")
_SAYS = {
    word: (name, value) for name, values in WORDS.items() for value, words in values.items() for word in words
}
MAX_WORDS = 20
"""Words (and commas) of the longest caption."""


def vocabulary() -> list[str]:
    """Every word of a caption, each once."""
    return [*_PLAIN, *_SAYS]


def asked_of(tune: Tune, rng: np.random.Generator, noise: CaptionNoise | None = None) -> dict[str, str]:
    """Which attributes a caption of the piece mentions, with their values; the true ones where there is no noise."""
    noise = noise or CaptionNoise(0.0, 0.0)
    count = int(rng.choice(MENTIONED))
    names = [list(ATTRIBUTES)[i] for i in sorted(rng.permutation(len(ATTRIBUTES))[:count])]
    asked = {}
    for name in names:
        value, values = tune.attributes[name], ATTRIBUTES[name]
        habit, slip, again = rng.random(), rng.random(), values[int(rng.integers(len(values)))]
        value = CONFUSED.get(value, value) if habit < noise.habit else value
        asked[name] = again if slip < noise.random else value
    return asked


def phrase(asked: Mapping[str, str], rng: np.random.Generator) -> str:
    """One caption for the asked attributes: one of three phrasings, in any order, one of two words for each.

    ``a sad , low tune on the flute``, ``the flute plays something sad and low``, ``music for flute , sad , low``.
    """
    said = {name: WORDS[name][value][int(rng.integers(2))] for name, value in asked.items()}
    instrument = said.pop("timbre", None)
    rest = list(said.values())
    rest = [rest[i] for i in rng.permutation(len(rest))]
    kind = int(rng.integers(3))
    if kind == 0:
        adjectives = " , ".join(rest[:2])
        after = "".join(f" , {word}" for word in rest[2:])
        played = f" on the {instrument}" if instrument else ""
        return f"a {adjectives} tune{played}{after}"
    if kind == 1:
        listed = " , ".join(rest[:-1]) + f" and {rest[-1]}" if len(rest) > 1 else rest[0]
        return f"the {instrument or 'melody'} plays something {listed}"
    return f"music for {instrument} , {' , '.join(rest)}" if instrument else f"music , {' , '.join(rest)}"


def read_caption(text: str) -> dict[str, str]:
    """What a caption asks for: attribute -> value, from its words alone."""
    said = [_SAYS[word] for word in text.split() if word in _SAYS]
    return dict(said)
