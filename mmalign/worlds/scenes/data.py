"""Rows of the scenes world: captions, questions and the POPE sets, each with its picture and its truth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from mmalign.errors import UserError, nearest
from mmalign.rng import derive_seed, numpy_generator
from mmalign.types import Row
from mmalign.worlds.scenes.captions import CaptionNoise, caption, short_caption
from mmalign.worlds.scenes.facts import verify
from mmalign.worlds.scenes.grammar import parse
from mmalign.worlds.scenes.questions import POPE_KINDS, absent_class, ask_many
from mmalign.worlds.scenes.render import render
from mmalign.worlds.scenes.scene import Scene, generate
from mmalign.worlds.scenes.words import CAPTION_PROMPT, CLEAN_PROMPT, COLORS

__all__ = ["MIX", "ROW_KINDS", "pope", "rows", "scene_at"]

ROW_KINDS = ("caption", "caption_clean", "qa", "mix", "preference")
"""What ``rows`` can make."""
MIX = {"caption": 0.4, "short": 0.2, "qa": 0.4}
"""Shares of the ``mix`` kind: noisy captions, short true captions, true questions."""
_TRIES = 64
"""Draws after which a scene counts as one that no habit bends (seen: at most 9 where one does)."""


def scene_at(split: str, seed: int, index: int) -> Scene:
    """The scene of row ``index`` of the stream ``seed``, the same for every kind of row."""
    return generate(derive_seed(seed, "rows", index), split)


def _row(name: str, scene: Scene, prompt: str, completion: str | None, meta: dict[str, Any]) -> Row:
    return Row(
        id=name,
        prompt=prompt,
        media=(render(scene),),
        completion=completion,
        meta={"scene": scene.to_dict(), **meta},
    )


def _content(kind: str, scene: Scene, rng: np.random.Generator, noise: CaptionNoise) -> tuple[str, str, str]:
    """(what it is, prompt, answer) of one row."""
    if kind == "mix":
        kind = list(MIX)[int(rng.choice(len(MIX), p=list(MIX.values())))]
    if kind == "caption":
        return kind, CAPTION_PROMPT, caption(scene, rng, noise)
    if kind == "caption_clean":
        return kind, CAPTION_PROMPT, caption(scene, rng)
    if kind == "short":
        return kind, CLEAN_PROMPT, short_caption(scene, rng)
    question = ask_many(scene, 1, rng)[0]
    return question.kind, question.text, question.answer


def rows(
    split: str, n: int, seed: int = 0, kind: str = "caption", noise: CaptionNoise | None = None
) -> list[Row]:
    """The first ``n`` rows of a split: picture, prompt and answer, the truth in ``meta["scene"]``.

    ``caption`` answers the caption prompt with systematic noise, ``caption_clean`` truthfully, ``qa``
    asks one true question per picture, ``mix`` draws among noisy captions, short true captions and
    questions, ``preference`` compares a truthful caption with a noisy one.  Row ``i`` is the same
    whatever ``n`` is.

    Raises:
        UserError: when ``split`` or ``kind`` is unknown.
    """
    if kind not in ROW_KINDS:
        raise UserError(f'row kind "{kind}" is not one of {", ".join(ROW_KINDS)}{nearest(kind, ROW_KINDS)}')
    noise = noise or CaptionNoise()
    found = []
    for i in range(n):
        scene = scene_at(split, seed, i)
        rng = numpy_generator(seed, "rows", split, kind, i)
        if kind == "preference":
            found.append(_preference(f"scenes-{kind}-{split}-{seed}-{i}", scene, rng, noise))
            continue
        what, prompt, answer = _content(kind, scene, rng, noise)
        found.append(_row(f"scenes-{kind}-{split}-{seed}-{i}", scene, prompt, answer, {"kind": what}))
    return found


def _preference(name: str, scene: Scene, rng: np.random.Generator, noise: CaptionNoise) -> Row:
    """A truthful caption against a noisy one that says something false."""
    false = _false_caption(scene, rng, noise)
    row = _row(name, scene, CAPTION_PROMPT, None, {"kind": "preference"})
    return replace(row, chosen=caption(scene, rng), rejected=false)


def _false_caption(scene: Scene, rng: np.random.Generator, noise: CaptionNoise) -> str:
    """A noisy caption with a false fact; of the scene with one object recoloured where no habit applies to it."""
    for _ in range(_TRIES):
        text = caption(scene, rng, noise)
        if _says_something_false(text, scene):
            return text
    place = int(rng.integers(len(scene.objects)))
    bent = scene.objects[place]
    taken = {o.color for o in scene.objects if o.cls == bent.cls}
    free = [color for color in COLORS if color not in taken]
    bent = replace(bent, color=free[int(rng.integers(len(free)))])
    other = replace(scene, objects=(*scene.objects[:place], bent, *scene.objects[place + 1 :]))
    while not _says_something_false(text := caption(other, rng), scene):
        pass
    return text


def _says_something_false(text: str, scene: Scene) -> bool:
    return any(verify(fact, scene) == -1 for sentence in parse(text) for fact in sentence.facts)


def pope(kind: str, n: int, seed: int = 0, split: str = "test") -> list[Row]:
    """``n`` yes/no object questions, a yes and a no per picture; the truth is ``meta["label"]``.

    ``kind`` chooses the absent class of the no question: any (random), the most frequent one (popular),
    or the one that most often stands beside what is there (adversarial).

    Raises:
        UserError: when ``kind`` is unknown or ``n`` is odd.
    """
    if kind not in POPE_KINDS:
        raise UserError(
            f'POPE kind "{kind}" is not one of {", ".join(POPE_KINDS)}{nearest(kind, POPE_KINDS)}'
        )
    if n % 2:
        raise UserError(f"n is {n}, but POPE asks a yes and a no question per picture, so n must be even")
    found = []
    for i in range(n // 2):
        scene = scene_at(split, seed, i)
        rng = numpy_generator(seed, "pope", split, kind, i)
        present = scene.classes()
        asked = {"yes": present[rng.integers(len(present))], "no": absent_class(scene, kind, rng)}
        for label, cls in asked.items():
            name = f"pope-{kind}-{split}-{seed}-{i}-{label}"
            meta = {"kind": kind, "label": label, "cls": cls}
            found.append(_row(name, scene, f"is there a {cls} ?", None, meta))
    return found
