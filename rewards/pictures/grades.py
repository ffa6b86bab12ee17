"""Reading a grade out of a judge's reply: a number on a scale, or a word of a Likert scale; else nothing."""

from __future__ import annotations

import re

__all__ = ["LIKERT", "parse_grade"]

LIKERT = (
    "extremely poor",
    "very poor",
    "poor",
    "below average",
    "average",
    "above average",
    "good",
    "very good",
    "excellent",
    "outstanding",
)
"""Ten levels from worst to best.  (The table of MJ-Bench's code names the sixth twice and lacks the fourth.)"""

_NEGATED = re.compile(
    r"\b(?:not|n't|never|hardly|isn't|neither|nor)\s+(?:an?\s+|the\s+|very\s+|at all\s+)*$", re.IGNORECASE
)
_MARKED = re.compile(
    r"(?:rating|score|grade|answer)\b[\s*_\"'`:=]*(?:is\s+)?[\s*_\"'`\[(]*(-?\d+(?:\.\d+)?)", re.IGNORECASE
)
_NUMBER = re.compile(r"(?<![\w.,])-?\d+(?:\.\d+)?(?![\w])(?!\.\d)")
_WORDS = re.compile(r"\b(" + "|".join(sorted(LIKERT, key=len, reverse=True)) + r")\b", re.IGNORECASE)


def parse_grade(reply: str, best: float = 10.0, worst: float = 0.0) -> float | None:
    """The grade as a share of the scale in [0, 1], or ``None`` where the reply does not say one.

    A number after a word like "rating" counts first, then ``7/10``, then a number that stands alone, then a Likert
    word.  A number off the scale (a year), two different numbers or words without a mark, and a negated word are no
    grade: a guess would be paid as if it had been said.

    Args:
        reply: what the judge wrote.
        best: the number of the best grade.
        worst: the number of the worst.

    Raises:
        ValueError: when ``best`` is not above ``worst``.
    """
    if best <= worst:
        raise ValueError(f"best must be above worst, got {best} and {worst}")
    text = reply.replace("\u2019", "'")
    marked = {float(number) for number in _MARKED.findall(text)}
    if not marked:
        fraction = re.findall(
            rf"(?<![\w.])(-?\d+(?:\.\d+)?)\s*(?:/|out of)\s*{best:g}\b", text, re.IGNORECASE
        )
        marked = {float(number) for number in fraction}
    if not marked:
        marked = {float(number) for number in _NUMBER.findall(text)}
    if marked:
        number = marked.pop()
        return (number - worst) / (best - worst) if not marked and worst <= number <= best else None
    said = {match.group(1).lower() for match in _WORDS.finditer(text)}
    negated = any(_NEGATED.search(text[: match.start()]) for match in _WORDS.finditer(text))
    if len(said) != 1 or negated:
        return None
    return LIKERT.index(said.pop()) / (len(LIKERT) - 1)
