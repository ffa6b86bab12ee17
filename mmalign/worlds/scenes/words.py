"""The closed vocabulary of the scenes world and its biases (what usually goes with what)."""

from __future__ import annotations

__all__ = [
    "ATTRIBUTES",
    "CAPTION_PROMPT",
    "CLASSES",
    "CLASS_WEIGHTS",
    "CLEAN_PROMPT",
    "COLORS",
    "FAVOURITE_COLOR",
    "FUNCTION_WORDS",
    "KIND_OF_VALUE",
    "NUMBERS",
    "OPPOSITE",
    "PARTNER",
    "PLURALS",
    "RELATIONS",
    "SINGULARS",
    "SIZES",
    "TEXTURES",
    "vocabulary",
]

CLASSES = ("circle", "square", "triangle", "diamond", "cross", "ring", "star", "heart")
"""The eight shape classes."""
PLURALS = {c: ("crosses" if c == "cross" else c + "s") for c in CLASSES}
"""Class to plural."""
SINGULARS = {p: c for c, p in PLURALS.items()}
"""Plural to class."""
COLORS = ("red", "green", "blue", "yellow", "purple", "white")
"""The six colours."""
SIZES = ("small", "large")
"""The two sizes."""
TEXTURES = ("solid", "striped")
"""The two textures."""
ATTRIBUTES = {"color": COLORS, "size": SIZES, "texture": TEXTURES}
"""Attribute kind to its values."""
KIND_OF_VALUE = {value: kind for kind, values in ATTRIBUTES.items() for value in values}
"""Attribute value to its kind; a value belongs to exactly one kind."""
NUMBERS = ("one", "two", "three", "four", "five")
"""Number words; counts use two to five, places use one to four."""
RELATIONS = ("left of", "right of", "above", "below")
"""The four relations, always derived from coordinates."""
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
"""The converse of every relation."""

PARTNER = {
    "circle": "ring",
    "ring": "circle",
    "square": "cross",
    "cross": "square",
    "triangle": "star",
    "star": "triangle",
    "diamond": "heart",
    "heart": "diamond",
}
"""Theme partner of every class: the two stand together in most scenes."""
FAVOURITE_COLOR = {
    "circle": "red",
    "square": "blue",
    "triangle": "green",
    "diamond": "yellow",
    "cross": "white",
    "ring": "purple",
    "star": "yellow",
    "heart": "red",
}
"""The colour a class has about half of the time."""
CLASS_WEIGHTS = {
    "circle": 1.5,
    "square": 1.4,
    "triangle": 1.2,
    "diamond": 1.0,
    "cross": 0.9,
    "ring": 0.8,
    "star": 0.8,
    "heart": 0.7,
}
"""Unnormalised frequency of a class when it is not drawn as somebody's partner."""

CAPTION_PROMPT = "describe the picture ."
"""The prompt under which captions carry the systematic noise."""
CLEAN_PROMPT = "what is in the picture ?"
"""The prompt answered with short, always truthful captions."""
FUNCTION_WORDS = [
    "there",
    "is",
    "are",
    "a",
    "the",
    "i",
    "see",
    "picture",
    "has",
    "looks",
    "lies",
    "left",
    "right",
    "of",
    "above",
    "below",
    "row",
    "column",
    "where",
    "what",
    "in",
    "this",
    "true",
    "describe",
    "yes",
    "no",
    "user",
    "assistant",
    ":",
    "?",
    ".",
]
"""Every word that is neither a class, a colour, a size, a texture nor a number."""


def vocabulary() -> tuple[str, ...]:
    """Every word of the grammar, each once, in a fixed order (fewer than 70)."""
    return (*FUNCTION_WORDS, *NUMBERS, *CLASSES, *PLURALS.values(), *COLORS, *SIZES, *TEXTURES)
