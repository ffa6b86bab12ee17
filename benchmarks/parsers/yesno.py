"""Reading yes or no out of an answer.  The rule decides the score, so each rule has a name and a version."""

from __future__ import annotations

import re

from mmalign.evals.parser import Parsed, Parser

__all__ = ["YES_NO_PARSERS", "one_word", "pope_reference", "strict", "yes_no"]

_YES = {"yes", "yeah", "yep", "yup"}
_NO = {"no", "nope", "nah"}
_NO_ANSWER = re.compile(r"^no\s+(idea|clue|way\s+(to|of)|one\s+can\s+(tell|know))\b")
_HEDGE = re.compile(
    r"\b(can\s?not|can't|could\s?not|couldn't|unable|impossible|difficult|hard)\b"
    r".*\b(tell|say|know|see|determine|answer|be sure)"
    r"|\b(unsure|unclear|uncertain|not\s+(sure|certain|clear)|maybe|perhaps|possibly|don't\s+know|do\s+not\s+know)\b"
)
_DENIED = re.compile(r"\b(not|none|nothing|neither|without|absent|false|incorrect|never)\b|n't\b")
_STATED = re.compile(r"^(there\s+(is|are)|there's|true\b|correct\b|indeed\b|i\s+(can\s+)?see\b)")

UNREAD = Parsed(None, ok=False)
"""The answer could not be read as yes or no."""


def _read(value: bool) -> Parsed:
    return Parsed("yes" if value else "no", ok=True)


def yes_no(answer: str) -> Parsed:
    """Read a free answer: a leading yes/no, else the only one present, else a plain statement or denial.

    Hedges ("I cannot tell"), both words at once and anything else stay unread rather than guessed.
    """
    text = answer.lower().replace("\u2019", "'").strip(" \t\n\"'*_`([{<>:;,.!?-")
    words = re.findall(r"[a-z']+", text)
    if not words or _NO_ANSWER.match(text):
        return UNREAD
    if words[0] in _YES | _NO:
        return _read(words[0] in _YES)
    first = re.split(r"[.!?\n]", text, maxsplit=1)[0]
    if _HEDGE.search(first):
        return UNREAD
    said_yes, said_no = bool(_YES & set(words)), bool(_NO & set(words))
    if said_yes or said_no:
        return UNREAD if said_yes and said_no else _read(said_yes)
    if _DENIED.search(first):
        return _read(False)
    return _read(True) if _STATED.match(first) else UNREAD


def pope_reference(answer: str) -> Parsed:
    """The rule of POPE's own script: in the first sentence one of "No", "no", "not" means no, **all else yes**.

    An unreadable answer becomes yes, also "NO", "nope" and "I cannot tell".  Only for published numbers.

    *Reference:* Li et al. (2023), arXiv 2305.10355. *Differs from paper:* none, restated from its rule.
    """
    words = answer.split(".")[0].replace(",", "").split(" ")
    return _read(not {"No", "no", "not"} & set(words))


def strict(answer: str) -> Parsed:
    """The whole answer, lower-cased and stripped, must be ``yes`` or ``no`` (the rule lmms-eval uses)."""
    text = answer.strip().lower()
    return _read(text == "yes") if text in ("yes", "no") else UNREAD


def one_word(answer: str) -> Parsed:
    """Exactly one of the words yes and no occurs anywhere (the rule VLMEvalKit uses)."""
    words = set(re.findall(r"[a-z]+", answer.lower()))
    return _read("yes" in words) if ("yes" in words) != ("no" in words) else UNREAD


YES_NO_PARSERS = {
    parser.name: parser
    for parser in (
        Parser("yesno", 1, yes_no),
        Parser("pope-reference", 1, pope_reference),
        Parser("strict", 1, strict),
        Parser("one-word", 1, one_word),
    )
}
"""Every rule by name; the first is the default."""
