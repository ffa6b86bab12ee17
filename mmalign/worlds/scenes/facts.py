"""Atomic facts and their truth in a scene, decided by geometry alone."""

from __future__ import annotations

from dataclasses import dataclass

from mmalign.worlds.scenes.scene import MARGIN, Scene, SceneObject
from mmalign.worlds.scenes.words import (
    ATTRIBUTES,
    KIND_OF_VALUE,
    NUMBERS,
    OPPOSITE,
    PLURALS,
    RELATIONS,
)

__all__ = [
    "FACT_TYPES",
    "Fact",
    "attribute_fact",
    "count_fact",
    "object_fact",
    "relation_fact",
    "true_facts",
    "verify",
]

FACT_TYPES = ("object", "attribute", "relation")
"""The three hallucination types."""


@dataclass(frozen=True, slots=True, order=True)
class Fact:
    """One atomic statement: ``type`` object, attribute or relation, and its canonical ``key``.

    Keys: ``(cls,)``; ``(kind, cls, value)`` or ``("count", cls, number)``; ``(relation, a, b)`` with
    relation "left of" or "above" only (the converse statement has the same key).
    """

    type: str
    key: tuple[str, ...]

    @property
    def text(self) -> str:
        """A short reading, for example ``red circle`` or ``circle left of square``."""
        if self.type == "object":
            return self.key[0]
        if self.type == "relation":
            return f"{self.key[1]} {self.key[0]} {self.key[2]}"
        kind, cls, value = self.key
        return f"{value} {PLURALS[cls]}" if kind == "count" else f"{value} {cls}"

    def question(self) -> str:
        """The yes/no question whose answer is yes exactly when the fact holds."""
        if self.type == "object":
            return f"is there a {self.key[0]} ?"
        if self.type == "relation":
            return f"is the {self.key[1]} {self.key[0]} the {self.key[2]} ?"
        kind, cls, value = self.key
        return f"are there {value} {PLURALS[cls]} ?" if kind == "count" else f"is the {cls} {value} ?"


def object_fact(cls: str) -> Fact:
    """The fact that an object of class ``cls`` exists."""
    return Fact("object", (cls,))


def attribute_fact(cls: str, value: str) -> Fact:
    """The fact that some object of class ``cls`` has the colour, size or texture ``value``."""
    return Fact("attribute", (KIND_OF_VALUE[value], cls, value))


def count_fact(cls: str, number: str) -> Fact:
    """The fact that exactly ``number`` (a number word) objects of class ``cls`` exist."""
    return Fact("attribute", ("count", cls, number))


def relation_fact(a: str, relation: str, b: str) -> Fact:
    """The fact that some ``a`` stands in ``relation`` to some ``b``, in canonical form."""
    if relation in ("right of", "below"):
        a, relation, b = b, OPPOSITE[relation], a
    return Fact("relation", (relation, a, b))


def _offset(a: SceneObject, b: SceneObject, relation: str) -> int:
    """Pixels by which ``a`` precedes ``b`` on the relation's axis (negative: it follows)."""
    return b.x - a.x if relation == "left of" else b.y - a.y


def _verify_relation(key: tuple[str, ...], scene: Scene) -> int:
    relation, a, b = key
    gaps = [
        _offset(one, two, relation)
        for i, one in enumerate(scene.objects)
        for j, two in enumerate(scene.objects)
        if i != j and one.cls == a and two.cls == b
    ]
    if any(gap > MARGIN for gap in gaps):
        return 1
    return -1 if gaps and all(gap < -MARGIN for gap in gaps) else 0


def verify(fact: Fact, scene: Scene) -> int:
    """Judge a fact: +1 true, -1 false, 0 not applicable.

    Statements are existential: true when any instance satisfies them.  An attribute or relation of a
    class that is absent is 0 (that error is counted once, by the object fact), and so is a relation
    between two objects that are too close on the axis to be told apart.
    """
    if fact.type == "object":
        return 1 if scene.count(fact.key[0]) else -1
    if fact.type == "relation":
        return _verify_relation(fact.key, scene)
    kind, cls, value = fact.key
    n = scene.count(cls)
    if n == 0:
        return 0
    if kind == "count":
        return 1 if n <= len(NUMBERS) and NUMBERS[n - 1] == value else -1
    return 1 if any(o.cls == cls and getattr(o, kind) == value for o in scene.objects) else -1


def true_facts(scene: Scene) -> dict[str, frozenset[Fact]]:
    """Every fact that holds, by type; counts only where a class stands there more than once."""
    classes = scene.classes()
    attributes = {attribute_fact(o.cls, getattr(o, kind)) for o in scene.objects for kind in ATTRIBUTES}
    attributes |= {count_fact(c, NUMBERS[scene.count(c) - 1]) for c in classes if scene.count(c) > 1}
    relations = {relation_fact(a, r, b) for a in classes for b in classes if a != b for r in RELATIONS}
    return {
        "object": frozenset(object_fact(c) for c in classes),
        "attribute": frozenset(attributes),
        "relation": frozenset(f for f in relations if verify(f, scene) == 1),
    }
