"""Rows of the tunes world: captions with the pieces they describe, the truth in ``meta``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from mmalign.errors import UserError, nearest
from mmalign.rng import derive_seed, numpy_generator
from mmalign.types import Row
from mmalign.worlds.tunes.captions import CaptionNoise, asked_of, phrase
from mmalign.worlds.tunes.synth import render
from mmalign.worlds.tunes.tune import ATTRIBUTES, Tune, tune_at

__all__ = ["ROW_KINDS", "rows"]

ROW_KINDS = ("caption", "caption_clean", "prompt", "preference")
"""What ``rows`` can make."""


def rows(
    split: str, n: int, seed: int = 0, kind: str = "caption", noise: CaptionNoise | None = None
) -> list[Row]:
    """The first ``n`` rows of a split: a caption as the prompt, ``meta["asked"]`` what it mentions.

    ``caption`` rows have a piece as their completion that is described as carelessly as in the base's training data,
    ``caption_clean`` rows truthfully; ``prompt`` rows have no completion, ``preference`` rows compare a piece that is
    described truthfully with one that differs in one to three of the mentioned attributes.  Row ``i`` is the same
    whatever ``n`` is, and has the same piece for every kind; combinations of attributes of one split are in no other.

    Args:
        split: ``train``, ``validation``, ``test`` or ``every``.
        n: how many.
        seed: which stream of the split.
        kind: one of :data:`ROW_KINDS`.
        noise: how captions of ``caption`` rows go wrong.

    Raises:
        UserError: when ``split`` or ``kind`` is unknown.
    """
    if kind not in ROW_KINDS:
        raise UserError(f'row kind "{kind}" is not one of {", ".join(ROW_KINDS)}{nearest(kind, ROW_KINDS)}')
    noise = (noise or CaptionNoise()) if kind == "caption" else None
    return [_row(split, seed, i, kind, noise) for i in range(n)]


def _row(split: str, seed: int, index: int, kind: str, noise: CaptionNoise | None) -> Row:
    tune = tune_at(split, seed, index)
    rng = numpy_generator(seed, "tunes", "rows", split, index)
    asked = asked_of(tune, rng, noise)
    meta: dict[str, Any] = {"tune": tune.to_dict(), "asked": asked, "kind": kind}
    row = Row(id=f"tunes-{kind}-{split}-{seed}-{index}", prompt=phrase(asked, rng), meta=meta)
    if kind in ("caption", "caption_clean"):
        return replace(row, completion=render(tune))
    if kind == "preference":
        return replace(row, chosen=render(tune), rejected=render(_astray(tune, asked, rng)))
    return row


def _astray(tune: Tune, asked: dict[str, str], rng: np.random.Generator) -> Tune:
    """Another piece that goes against one to three of what was asked."""
    names = list(asked)
    wrong = {}
    for i in rng.permutation(len(names))[: int(rng.integers(1, 4))]:
        others = [v for v in ATTRIBUTES[names[i]] if v != asked[names[i]]]
        wrong[names[i]] = others[int(rng.integers(len(others)))]
    return Tune.from_dict({**tune.to_dict(), **wrong, "id": derive_seed(tune.id, "astray")})
