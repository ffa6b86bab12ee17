"""Sentence and sub-sentence spans of an answer, in characters and in steps.

Step spans come from the decoded text of the generated ids themselves; nothing is tokenised again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

from mmalign.types import Segment

__all__ = ["Granularity", "char_ends", "segment", "sentence_spans", "sub_sentence_spans"]

Granularity = Literal["sentence", "sub_sentence"]

_END = re.compile(r"[.!?]+[\"')\]]*(?=\s|$)|\n+")
_WORD = re.compile(r"\S+")
_SUB_END = ",;!?"
_MIN_WORDS = 5


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Character spans of sentences: they end at ``. ! ?`` before white space, or at a new line."""
    spans: list[tuple[int, int]] = []
    start = 0
    for match in [*_END.finditer(text), None]:
        end = match.end() if match else len(text)
        piece = text[start:end]
        left = start + len(piece) - len(piece.lstrip())
        right = start + len(piece.rstrip())
        if right > left:
            if spans and not any(char.isalnum() for char in text[left:right]):
                spans[-1] = (spans[-1][0], right)
            else:
                spans.append((left, right))
        start = end
    return spans


def sub_sentence_spans(text: str) -> list[tuple[int, int]]:
    """Character spans of sub-sentences by the rule of fine-grained RLHF.

    Inside a sentence a boundary opens after a word ending in ``, ; ! ?`` while more than five words
    remain; a piece of fewer than five words joins the one before it (a first piece simply goes on).

    Reference: Wu et al. 2023, arXiv 2306.01693 (segmentation of the QA-feedback task).
    Differs from paper: sentences are found by punctuation, not by a parser.
    """
    spans: list[tuple[int, int]] = []
    for left, right in sentence_spans(text):
        words = [(left + m.start(), left + m.end()) for m in _WORD.finditer(text[left:right])]
        pieces: list[tuple[int, int]] = []
        first = 0
        for index, (_, end) in enumerate(words):
            remaining = len(words) - index - 1
            last = remaining == 0
            if not last and not (text[end - 1] in _SUB_END and remaining > _MIN_WORDS):
                continue
            if index + 1 - first >= _MIN_WORDS or (last and not pieces):
                pieces.append((words[first][0], end))
            elif pieces:
                pieces[-1] = (pieces[-1][0], end)
            else:
                continue
            first = index + 1
        spans.extend(pieces)
    return spans


def char_ends(tokenizer: Any, ids: Sequence[int]) -> tuple[str, list[int]]:
    """Decode ``ids`` and return the text with, for every step, the characters settled after it.

    A step's end is the length of the common start of the text decoded so far and the whole text, so
    half-finished characters and clean-up rules of the tokenizer never shift a boundary.
    """
    if not ids:
        return "", []
    prefixes = [list(ids[: step + 1]) for step in range(len(ids))]
    decoded = tokenizer.batch_decode(prefixes, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    text = decoded[-1]
    ends, reached = [], 0
    for prefix in decoded:
        reached = max(reached, _common(prefix, text))
        ends.append(reached)
    return text, ends


def segment(text: str, ends: Sequence[int], granularity: Granularity = "sentence") -> tuple[Segment, ...]:
    """Cut an answer into segments whose step spans follow from ``ends`` (see :func:`char_ends`).

    A sentence that ends within the last step of the one before joins it: every segment has a step.
    """
    find = sentence_spans if granularity == "sentence" else sub_sentence_spans
    segments: list[Segment] = []
    begin = 0
    for left, right in find(text):
        stop = next((step + 1 for step, end in enumerate(ends) if end >= right), len(ends))
        if stop <= begin and segments:
            before = segments.pop()
            left, begin = before.char_start, before.start
            stop = before.end
        segments.append(Segment(begin, stop, text[left:right], left, right, granularity))
        begin = stop
    return tuple(segments)


def _common(prefix: str, text: str) -> int:
    if text.startswith(prefix):
        return len(prefix)
    for index, (one, two) in enumerate(zip(prefix, text, strict=False)):
        if one != two:
            return index
    return min(len(prefix), len(text))
