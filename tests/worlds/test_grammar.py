"""The parser is exact: what the generators write it reads back, and nothing else passes as a sentence."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmalign.worlds.scenes import (
    CaptionNoise,
    attribute_fact,
    caption,
    count_fact,
    generate,
    object_fact,
    parse,
    relation_fact,
    short_caption,
    verify,
)
from mmalign.worlds.scenes.words import (
    CLASSES,
    COLORS,
    NUMBERS,
    PLURALS,
    RELATIONS,
    SIZES,
    TEXTURES,
    vocabulary,
)


@settings(max_examples=800, deadline=None)
@given(st.integers(0, 2**40), st.booleans())
def test_captions_round_trip(seed: int, noisy: bool) -> None:
    scene = generate(seed, "train")
    text = caption(scene, np.random.default_rng(seed), CaptionNoise() if noisy else None)
    sentences = parse(text)
    assert all(s.well_formed and s.facts for s in sentences)
    assert " ".join(s.text for s in sentences) == text
    assert all(text[s.char_start : s.char_end] == s.text and s.text.endswith(".") for s in sentences)
    assert set(text.split()) <= set(vocabulary())
    if not noisy:
        assert all(verify(f, scene) == 1 for s in sentences for f in s.facts)


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 2**40))
def test_short_captions_are_true(seed: int) -> None:
    scene = generate(seed, "validation")
    sentences = parse(short_caption(scene, np.random.default_rng(seed)))
    assert 1 <= len(sentences) <= 3
    assert all(s.well_formed and verify(f, scene) == 1 for s in sentences for f in s.facts)


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from(vocabulary()), max_size=40))
def test_any_words_parse_without_error(words: list[str]) -> None:
    text = " ".join(words)
    sentences = parse(text)
    assert "".join(s.text.replace(" ", "") for s in sentences) == text.replace(" ", "")
    for s in sentences:
        assert text[s.char_start : s.char_end] == s.text
        if not s.well_formed:
            assert all(f.type == "object" for f in s.facts)


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("there is a circle .", [object_fact("circle")]),
        (
            "i see a small striped red ring .",
            [object_fact("ring"), *(attribute_fact("ring", v) for v in ("small", "striped", "red"))],
        ),
        ("the heart looks solid .", [object_fact("heart"), attribute_fact("heart", "solid")]),
        ("there are two crosses .", [object_fact("cross"), count_fact("cross", "two")]),
        (
            "the star lies below the ring .",
            [object_fact("star"), object_fact("ring"), relation_fact("ring", "above", "star")],
        ),
    ],
)
def test_sentence_forms(text: str, facts: list[object]) -> None:
    (sentence,) = parse(text)
    assert sentence.well_formed
    assert list(sentence.facts) == facts


@pytest.mark.parametrize(
    "text",
    [
        "there is a red small circle .",
        "there is a circle",
        "there is a .",
        "there are two circle .",
        "there are one circles .",
        "the circle is left the square .",
        "the circle looks left of the square .",
        "the circle is left of the circle .",
        "the circle is red blue .",
        "circle .",
        ".",
        "is there a circle ?",
        "there is a small small circle .",
    ],
)
def test_malformed_sentences_are_detected(text: str) -> None:
    assert [s.well_formed for s in parse(text)] == [False]


def test_malformed_sentences_keep_their_mentions() -> None:
    (sentence,) = parse("the circle circles square .")
    assert sentence.facts == (object_fact("circle"), object_fact("square"))


def test_letter_case_and_missing_spaces_do_not_matter() -> None:
    text = "There is a small circle. The circle is red."
    assert [s.text for s in parse(text)] == ["There is a small circle.", "The circle is red."]
    assert all(s.well_formed for s in parse(text))
    assert parse("") == []


def test_every_fact_question_has_its_own_words() -> None:
    facts = [object_fact(c) for c in CLASSES]
    facts += [attribute_fact(c, v) for c in CLASSES for v in (*COLORS, *SIZES, *TEXTURES)]
    facts += [count_fact(c, n) for c in CLASSES for n in NUMBERS[1:]]
    facts += [relation_fact(a, r, b) for a in CLASSES for b in CLASSES if a != b for r in RELATIONS]
    unique = set(facts)
    assert len({f.question() for f in unique}) == len(unique) == len({f.text for f in unique})
    assert {w for f in unique for w in f.question().split()} <= set(vocabulary())
    assert len(vocabulary()) == len(set(vocabulary())) < 70
    assert set(PLURALS) == set(CLASSES)
