"""Truthful questions about a scene, with hard negatives, and the POPE question sets."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmalign.worlds.scenes.captions import sentence_about
from mmalign.worlds.scenes.facts import (
    Fact,
    attribute_fact,
    count_fact,
    object_fact,
    relation_fact,
    verify,
)
from mmalign.worlds.scenes.scene import Scene, generate
from mmalign.worlds.scenes.words import (
    ATTRIBUTES,
    CLASSES,
    FAVOURITE_COLOR,
    NUMBERS,
    OPPOSITE,
    PARTNER,
    RELATIONS,
)

__all__ = ["POPE_KINDS", "QUESTION_KINDS", "Question", "absent_class", "ask", "ask_many", "co_occurrence"]

QUESTION_KINDS = ("object", "attribute", "relation", "count", "where", "truth")
"""What a question may ask about; ``truth`` shows a whole sentence and asks whether it holds."""
POPE_KINDS = ("random", "popular", "adversarial")
"""How the negative class of a POPE question is chosen."""
_WEIGHTS = (0.12, 0.24, 0.2, 0.04, 0.16, 0.24)


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its true answer; ``kind`` says what it asks, ``about`` the type of a truth question."""

    kind: str
    text: str
    answer: str
    about: str = ""


@functools.lru_cache(maxsize=1)
def co_occurrence() -> tuple[dict[str, float], dict[tuple[str, str], float]]:
    """Class frequency and P(second | first) counted over 2000 training scenes."""
    alone = dict.fromkeys(CLASSES, 0)
    pairs = {(a, b): 0 for a in CLASSES for b in CLASSES if a != b}
    n = 2000
    for seed in range(n):
        present = generate(seed, "train").classes()
        for a in present:
            alone[a] += 1
            for b in present:
                if a != b:
                    pairs[a, b] += 1
    return {c: k / n for c, k in alone.items()}, {(a, b): k / max(alone[a], 1) for (a, b), k in pairs.items()}


def absent_class(scene: Scene, kind: str, rng: np.random.Generator) -> str:
    """A class that is absent: any, the most frequent, or the one that co-occurs most with what is there."""
    present = scene.classes()
    absent = [c for c in CLASSES if c not in present]
    if kind == "random":
        return absent[rng.integers(len(absent))]
    alone, pairs = co_occurrence()
    if kind == "popular":
        return max(absent, key=lambda c: alone[c])
    return max(absent, key=lambda c: max(pairs[p, c] for p in present))


def _hard_absent(scene: Scene, rng: np.random.Generator) -> str:
    """An absent class, half of the time the partner of one that is present."""
    lonely = [PARTNER[c] for c in scene.classes() if PARTNER[c] not in scene.classes()]
    if lonely and rng.random() < 0.5:
        return lonely[rng.integers(len(lonely))]
    return absent_class(scene, "random", rng)


def _false_value(scene: Scene, cls: str, kind: str, rng: np.random.Generator) -> str | None:
    """A value no ``cls`` of the scene has, preferring the favourite colour and colours seen elsewhere."""
    options = [v for v in ATTRIBUTES[kind] if verify(attribute_fact(cls, v), scene) < 0]
    if not options:
        return None
    if kind == "color" and rng.random() < 0.7:
        seen = [FAVOURITE_COLOR[cls], *(o.color for o in scene.objects)]
        hard = [v for v in options if v in seen]
        options = hard or options
    return options[rng.integers(len(options))]


def _attribute_fact(scene: Scene, rng: np.random.Generator, truth: bool) -> Fact | None:
    obj = scene.objects[rng.integers(len(scene.objects))]
    kind = ("color", "size", "texture")[rng.choice(3, p=(0.45, 0.25, 0.3))]
    value = getattr(obj, kind) if truth else _false_value(scene, obj.cls, kind, rng)
    return attribute_fact(obj.cls, value) if value else None


def _relation_statement(scene: Scene, rng: np.random.Generator, truth: bool) -> tuple[str, str, str] | None:
    """A (subject, relation, object) about two classes that stand there once, judged ``truth``."""
    single = [c for c in scene.classes() if scene.count(c) == 1]
    options = [(a, r, b) for a in single for b in single if a != b for r in RELATIONS]
    options = [o for o in options if verify(relation_fact(*o), scene) == 1]
    if not options:
        return None
    a, r, b = options[rng.integers(len(options))]
    return (a, r if truth else OPPOSITE[r], b)


def _truth(scene: Scene, rng: np.random.Generator, truth: bool) -> Question | None:
    """A whole sentence to judge; a false one is wrong in exactly one fact of the type it is about."""
    about = ("object", "attribute", "relation")[rng.choice(3, p=(0.3, 0.35, 0.35))]
    sentence: str | None = None
    if about == "relation":
        statement = _relation_statement(scene, rng, truth)
        if statement:
            sentence = sentence_about(statement, rng)
    elif about == "object":
        obj = scene.objects[rng.integers(len(scene.objects))]
        cls = obj.cls if truth else _hard_absent(scene, rng)
        values = {kind: getattr(obj, kind) for kind in ATTRIBUTES}
        if not truth and rng.random() < 0.7:
            values["color"] = FAVOURITE_COLOR[cls]
        sentence = sentence_about((cls, values), rng)
    else:
        fact = _attribute_fact(scene, rng, truth)
        if fact:
            kind, cls, value = fact.key
            same = [o for o in scene.objects if o.cls == cls]
            values = {k: getattr(same[0], k) for k in ATTRIBUTES} | {kind: value}
            sentence = sentence_about((cls, values), rng, must=kind)
    if sentence is None:
        return None
    return Question("truth", f"is this true : {sentence} ?", "yes" if truth else "no", about)


def ask(scene: Scene, kind: str, truth: bool, rng: np.random.Generator) -> Question | None:
    """A question of one kind whose answer is yes (``truth``) or no, or None when the scene allows none.

    ``where`` questions ignore ``truth``: they are answered by a place, ``row two column three``.
    """
    answer = "yes" if truth else "no"
    if kind == "truth":
        return _truth(scene, rng, truth)
    if kind == "where":
        single = [o for o in scene.objects if scene.count(o.cls) == 1]
        if not single:
            return None
        obj = single[rng.integers(len(single))]
        return Question(
            kind, f"where is the {obj.cls} ?", f"row {NUMBERS[obj.row]} column {NUMBERS[obj.col]}"
        )
    if kind == "relation":
        statement = _relation_statement(scene, rng, truth)
        if statement is None:
            return None
        a, r, b = statement
        return Question(kind, f"is the {a} {r} the {b} ?", answer)
    if kind == "object":
        present = scene.classes()
        cls = present[rng.integers(len(present))] if truth else _hard_absent(scene, rng)
        return Question(kind, object_fact(cls).question(), answer)
    if kind == "count":
        present = scene.classes()
        double = [c for c in present if scene.count(c) > 1]
        if truth and not double:
            return None
        cls = double[0] if truth or (double and rng.random() < 0.3) else present[rng.integers(len(present))]
        n = scene.count(cls)
        number = n if truth else (3 if n == 2 else 2)
        return Question(kind, count_fact(cls, NUMBERS[number - 1]).question(), answer)
    fact = _attribute_fact(scene, rng, truth)
    return Question(kind, fact.question(), answer) if fact else None


def ask_many(
    scene: Scene, n: int, rng: np.random.Generator, kinds: Sequence[str] = QUESTION_KINDS
) -> list[Question]:
    """Up to ``n`` different questions, yes and no equally likely."""
    weights = np.array([_WEIGHTS[QUESTION_KINDS.index(k)] for k in kinds])
    weights = weights / weights.sum()
    found: dict[str, Question] = {}
    for _ in range(2 * n):
        if len(found) == n:
            break
        kind = kinds[rng.choice(len(kinds), p=weights)]
        question = ask(scene, kind, bool(rng.integers(2)), rng)
        if question:
            found.setdefault(question.text, question)
    return list(found.values())
