"""Golden tables: what every parser reads.  A changed line here means a new version of the parser."""

from __future__ import annotations

import pytest

from mmalign.benchmarks.parsers import YES_NO_PARSERS
from mmalign.errors import UserError
from mmalign.evals.parser import pick_parser

# answer, yesno, pope-reference, strict, one-word; None is unread
GOLDEN = [
    ("yes", "yes", "yes", "yes", "yes"),
    ("no", "no", "no", "no", "no"),
    ("yes .", "yes", "yes", None, "yes"),
    ("Yes, there is a dog in the image.", "yes", "yes", None, "yes"),
    ("No, there is no dog.", "no", "no", None, "no"),
    ("NO", "no", "yes", "no", "no"),
    ("Nope.", "no", "yes", None, None),
    ("**Yes**", "yes", "yes", None, "yes"),
    ('"No."', "no", "yes", None, "no"),
    ("The answer is yes.", "yes", "yes", None, "yes"),
    ("There is a dog in the image.", "yes", "yes", None, None),
    ("There is no dog in the image.", "no", "no", None, "no"),
    ("There is not a dog.", "no", "no", None, None),
    ("There isn't a dog.", "no", "yes", None, None),
    ("I cannot tell.", None, "yes", None, None),
    ("I can\u2019t tell from the picture.", None, "yes", None, None),
    ("Not sure.", None, "yes", None, None),
    ("No idea.", None, "no", None, "no"),
    ("Maybe yes, maybe no.", None, "no", None, None),
    ("Yes and no.", "yes", "no", None, None),
    ("It shows a cat. No dog.", "no", "yes", None, "no"),
    ("Is there a dog?", None, "yes", None, None),
    ("", None, "yes", None, None),
    ("   \n", None, "yes", None, None),
    ("<script>alert(1)</script>", None, "yes", None, None),
    ("false", "no", "yes", None, None),
    ("a knot of snow", None, "yes", None, None),
]


@pytest.mark.parametrize(("answer", "yesno", "pope", "strict", "one_word"), GOLDEN)
def test_golden_table(answer: str, yesno: str, pope: str, strict: str, one_word: str) -> None:
    expected = {"yesno": yesno, "pope-reference": pope, "strict": strict, "one-word": one_word}
    read = {name: parser(answer) for name, parser in YES_NO_PARSERS.items()}
    assert {name: found.value for name, found in read.items()} == expected
    assert all(found.ok == (found.value is not None) for found in read.values())


def test_parsers_are_picked_by_name_or_label_and_misspelling_names_the_nearest() -> None:
    assert pick_parser("yesno.v1", YES_NO_PARSERS) is YES_NO_PARSERS["yesno"]
    assert pick_parser("pope-reference", YES_NO_PARSERS).label == "pope-reference.v1"
    with pytest.raises(UserError, match=r'did you mean "strict"'):
        pick_parser("strct", YES_NO_PARSERS)
