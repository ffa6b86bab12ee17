"""The tunes world: short pieces of music, captions of them, and the exact truth about what is heard."""

from __future__ import annotations

from pathlib import Path

from mmalign.worlds.tunes.captions import MENTIONED, CaptionNoise, asked_of, phrase, read_caption
from mmalign.worlds.tunes.data import ROW_KINDS, rows
from mmalign.worlds.tunes.synth import render
from mmalign.worlds.tunes.tune import ATTRIBUTES, SPLITS, Tune, combinations_of, generate

BASES = (Path(__file__).parent / "base",)
"""Folder of the shipped starting model, a MusicGen of transformers; its codec stands beside it."""

__all__ = [
    "ATTRIBUTES",
    "BASES",
    "MENTIONED",
    "ROW_KINDS",
    "SPLITS",
    "CaptionNoise",
    "Tune",
    "asked_of",
    "combinations_of",
    "generate",
    "phrase",
    "read_caption",
    "render",
    "rows",
]
