"""Sentences, sub-sentences and their step spans."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmalign.modalities.tokens.segments import char_ends, segment, sentence_spans, sub_sentence_spans
from mmalign.types import Row


def cut(text: str, spans: list[tuple[int, int]]) -> list[str]:
    return [text[left:right] for left, right in spans]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("there is a cat . it is red .", ["there is a cat .", "it is red ."]),
        ("Is it? Yes! It is", ["Is it?", "Yes!", "It is"]),
        ("A 3.5 m pole.\nA dog", ["A 3.5 m pole.", "A dog"]),
        ('He said "no." Then left.', ['He said "no."', "Then left."]),
        ("Well... yes", ["Well...", "yes"]),
        ("cat . . .", ["cat . . ."]),
        ("", []),
        (" \n ", []),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert cut(text, sentence_spans(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "a red cat sits there, and a very big dog sleeps near it.",
            ["a red cat sits there,", "and a very big dog sleeps near it."],
        ),
        ("a red cat sits there, and a dog sleeps.", ["a red cat sits there, and a dog sleeps."]),
        ("a cat, which is red and very big indeed.", ["a cat, which is red and very big indeed."]),
        (
            "one two three four five, six seven, one two three four five six.",
            ["one two three four five, six seven,", "one two three four five six."],
        ),
        ("a b c d e; f g h i j k. No.", ["a b c d e;", "f g h i j k.", "No."]),
    ],
)
def test_sub_sentences(text: str, expected: list[str]) -> None:
    assert cut(text, sub_sentence_spans(text)) == expected


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab .,;!?\n", max_size=60))
def test_spans_cover_every_word_once(text: str) -> None:
    for find in (sentence_spans, sub_sentence_spans):
        spans = find(text)
        assert all(0 <= a < b <= len(text) for a, b in spans)
        assert all(one[1] <= two[0] for one, two in itertools.pairwise(spans))
        covered = {i for a, b in spans for i in range(a, b)}
        assert all(i in covered for i, char in enumerate(text) if not char.isspace())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.integers(3, 379), max_size=30))
def test_step_ends_of_any_ids(ids: list[int]) -> None:
    tokenizer = _tokenizer()
    text, ends = char_ends(tokenizer, ids)
    assert len(ends) == len(ids) and ends == sorted(ends)
    assert not ends or ends[-1] == len(text)
    pieces = segment(text, ends)
    assert all(a.end == b.start for a, b in itertools.pairwise(pieces))
    assert all(piece.start < piece.end for piece in pieces)
    for piece in pieces:
        settled = tokenizer.decode(
            ids[: piece.end], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        assert settled.startswith(text[: piece.char_end])


def test_end_token_belongs_to_no_segment(llava: Any) -> None:
    tokenizer = llava.adapter.processor.tokenizer
    ids = [*tokenizer(" a cat. a dog.", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    text, ends = char_ends(tokenizer, ids)
    pieces = segment(text, ends)
    assert [piece.text for piece in pieces] == ["a cat.", "a dog."]
    assert pieces[-1].end == len(ids) - 1
    assert tokenizer.decode(ids[pieces[0].start : pieces[0].end]) == " a cat."


def test_human_rows_get_segments_that_index_their_own_text(loaded: Any) -> None:
    row = Row("human", "What?", (), "A cat — très joli. A dog, a bird!")
    done = loaded.adapter.segment_rows([row])[0]
    assert done.completion == row.completion
    assert [piece.text for piece in done.segments] == ["A cat — très joli.", "A dog, a bird!"]
    for piece in done.segments:
        assert row.completion[piece.char_start : piece.char_end] == piece.text
        words = loaded.adapter.processor.tokenizer.decode(done.steps[piece.start : piece.end])
        assert words.strip() == piece.text
    again = loaded.adapter.segment_rows([done])[0]
    assert again.segments == done.segments and again.steps == done.steps


def test_human_rows_collate_to_the_steps_they_were_given(llava: Any, llava_rows: list[Row]) -> None:
    done = llava.adapter.segment_rows(llava_rows)
    plain = [replace(row, completion=r.completion) for row, r in zip(llava_rows, done, strict=True)]
    one, two = llava.adapter.collate(plain), llava.adapter.collate(done)
    assert one.inputs["input_ids"].tolist() == two.inputs["input_ids"].tolist()


def test_granularity_is_an_option(llava: Any) -> None:
    row = Row("r", "What?", (), "a red cat sits there, and a very big dog sleeps near it.")
    llava.adapter.granularity = "sub_sentence"
    assert [piece.kind for piece in llava.adapter.segment_rows([row])[0].segments] == ["sub_sentence"] * 2


def _tokenizer() -> Any:
    from vision_families import tokenizer

    if not hasattr(_tokenizer, "kept"):
        _tokenizer.kept = tokenizer("llava")  # type: ignore[attr-defined]
    return _tokenizer.kept  # type: ignore[attr-defined]
