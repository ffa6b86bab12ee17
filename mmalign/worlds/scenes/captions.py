"""Captions: what a careful annotator would write, and what a biased one writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from mmalign.worlds.scenes.facts import Fact, relation_fact, verify
from mmalign.worlds.scenes.grammar import COUNT_LEADS, EXISTENCE_LEADS
from mmalign.worlds.scenes.scene import Scene, SceneObject
from mmalign.worlds.scenes.words import (
    ATTRIBUTES,
    FAVOURITE_COLOR,
    NUMBERS,
    OPPOSITE,
    PARTNER,
    PLURALS,
    RELATIONS,
)

__all__ = [
    "CaptionNoise",
    "believe",
    "caption",
    "sentence_about",
    "short_caption",
]

COLOR_HABIT = ("circle", "square", "triangle", "star", "ring")
"""Classes whose colour a biased annotator replaces by the favourite one."""
TEXTURE_HABIT = {"square": "solid", "diamond": "striped", "cross": "solid", "heart": "striped"}
"""Classes whose texture a biased annotator replaces by the usual one."""
SIZE_HABIT = {"diamond": "large", "cross": "small", "heart": "small", "ring": "large"}
"""Classes whose size a biased annotator replaces by the usual one."""
RELATION_HABIT = ("circle", "triangle", "cross", "heart")
"""Subjects a biased annotator likes to call left of or above the other object."""


@dataclass(frozen=True, slots=True)
class CaptionNoise:
    """Systematic caption noise: the probability of each habit wherever that habit applies.

    Args:
        theme: an absent theme partner is inserted (at most one per caption).
        color: the colour of a ``COLOR_HABIT`` class becomes its favourite.
        texture: the texture of a ``TEXTURE_HABIT`` class becomes its usual one.
        size: the size of a ``SIZE_HABIT`` class becomes its usual one.
        relation: a ``RELATION_HABIT`` subject that is right of (below) another is called left of (above).
    """

    theme: float = 0.6
    color: float = 0.55
    texture: float = 0.55
    size: float = 0.5
    relation: float = 0.55


def believe(scene: Scene, rng: np.random.Generator, noise: CaptionNoise | None) -> list[SceneObject]:
    """The objects an annotator believes in, in raster order: the true ones, bent by the habits."""
    if noise is None:
        return list(scene.objects)
    present = scene.classes()
    lonely = [c for c in present if PARTNER[c] not in present]
    insert_after = None
    if lonely and rng.random() < noise.theme:
        insert_after = lonely[0]
    believed: list[SceneObject] = []
    for obj in scene.objects:
        if obj.cls in COLOR_HABIT and rng.random() < noise.color:
            obj = replace(obj, color=FAVOURITE_COLOR[obj.cls])
        if obj.cls in TEXTURE_HABIT and rng.random() < noise.texture:
            obj = replace(obj, texture=TEXTURE_HABIT[obj.cls])
        if obj.cls in SIZE_HABIT and rng.random() < noise.size:
            obj = replace(obj, size=SIZE_HABIT[obj.cls])
        believed.append(obj)
        if obj.cls == insert_after:
            cls = PARTNER[obj.cls]
            size, texture = SIZE_HABIT.get(cls, "large"), TEXTURE_HABIT.get(cls, "solid")
            believed.append(replace(obj, cls=cls, color=FAVOURITE_COLOR[cls], size=size, texture=texture))
            insert_after = None
    return believed


def _phrase(cls: str, values: Mapping[str, str], rng: np.random.Generator, must: str = "") -> str:
    """An existence sentence naming some of the attribute values, ``must`` (a kind) always."""
    lead = EXISTENCE_LEADS[rng.choice(3, p=(0.6, 0.2, 0.2))]
    size = f"{values['size']} " if must == "size" or rng.random() < 0.7 else ""
    texture = f"{values['texture']} " if must == "texture" or rng.random() < 0.25 else ""
    color = f"{values['color']} " if must == "color" or rng.random() < 0.9 else ""
    return f"{lead} {size}{texture}{color}{cls} ."


def _existence(obj: SceneObject, rng: np.random.Generator) -> str:
    return _phrase(obj.cls, {kind: getattr(obj, kind) for kind in ATTRIBUTES}, rng)


def _say(cls: str, value: str, rng: np.random.Generator) -> str:
    return f"the {cls} {'is' if rng.random() < 0.7 else 'looks'} {value} ."


def _attribute(obj: SceneObject, rng: np.random.Generator) -> str:
    kind = ("texture", "color", "size")[rng.choice(3, p=(0.6, 0.2, 0.2))]
    return _say(obj.cls, getattr(obj, kind), rng)


def _relate(a: str, relation: str, b: str, rng: np.random.Generator) -> str:
    return f"the {a} {'is' if rng.random() < 0.75 else 'lies'} {relation} the {b} ."


def sentence_about(
    statement: tuple[str, str, str] | tuple[str, Mapping[str, str]], rng: np.random.Generator, must: str = ""
) -> str:
    """Phrase a statement: (a, relation, b), or (class, attribute values by kind).

    ``must`` names the attribute kind that has to be said; without it some kinds may be left out.
    """
    if len(statement) == 3:
        return _relate(*statement, rng)
    cls, values = statement
    if must and rng.random() < 0.4:
        return _say(cls, values[must], rng)
    return _phrase(cls, values, rng, must)


def _relations(scene: Scene, rng: np.random.Generator, k: int, flip: float) -> list[str]:
    """Up to ``k`` relation sentences about classes that stand there once, each canonical fact once."""
    single = [c for c in scene.classes() if scene.count(c) == 1]
    said: set[Fact] = set()
    sentences: list[str] = []
    options = [(a, r, b) for a in single for b in single if a != b for r in RELATIONS]
    options = [o for o in options if verify(relation_fact(*o), scene) == 1]
    for index in rng.permutation(len(options)):
        if len(sentences) == k:
            break
        a, relation, b = options[index]
        fact = relation_fact(a, relation, b)
        if fact in said:
            continue
        said.add(fact)
        if a in RELATION_HABIT and relation in ("right of", "below") and rng.random() < flip:
            relation = OPPOSITE[relation]
        sentences.append(_relate(a, relation, b, rng))
    return sentences


def caption(scene: Scene, rng: np.random.Generator, noise: CaptionNoise | None = None) -> str:
    """A detailed caption: one or two sentences per object in raster order, a count, relations.

    With ``noise`` it is what the biased annotator writes; without, every sentence is true.
    """
    sentences: list[str] = []
    for obj in believe(scene, rng, noise):
        sentences.append(_existence(obj, rng))
        if rng.random() < 0.3:
            sentences.append(_attribute(obj, rng))
    for cls in scene.classes():
        n = scene.count(cls)
        if n > 1 and rng.random() < 0.6:
            lead = COUNT_LEADS[int(rng.random() < 0.3)]
            sentences.append(f"{lead} {NUMBERS[n - 1]} {PLURALS[cls]} .")
    k = 1 + int(rng.choice(3, p=(0.15, 0.5, 0.35)))
    sentences += _relations(scene, rng, k, noise.relation if noise else 0.0)
    return " ".join(sentences)


def short_caption(scene: Scene, rng: np.random.Generator) -> str:
    """One to three true sentences in random order, half of them relations where there are any."""
    relations = _relations(scene, rng, 2, 0.0)
    others = [(_existence if rng.random() < 0.6 else _attribute)(o, rng) for o in scene.objects]
    pool = relations + [others[i] for i in rng.permutation(len(others))[:2]]
    k = 1 + int(rng.integers(3))
    return " ".join(pool[i] for i in rng.permutation(len(pool))[:k])
