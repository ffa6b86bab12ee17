"""Prompts, scenes, detectors and verdicts of the drawings world, on real renders, noise and planted errors."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mmalign.errors import UserError
from mmalign.worlds import drawings
from mmalign.worlds.drawings.prompts import PROMPT_KINDS, Wish, draw_wish, pairs, read_prompt, wishes
from mmalign.worlds.drawings.scene import draw_array, place, scene_for
from mmalign.worlds.drawings.templates import Reading, match_templates
from mmalign.worlds.scenes.scene import Scene

SPLITS = ("train", "validation", "test")


def scenes_of(split: str, n: int, seed: int = 0) -> list[tuple[Wish, Scene]]:
    rng = np.random.default_rng(seed)
    return [(w := draw_wish(split, rng), scene_for(w, i, split)) for i in range(n)]


def content(objects: tuple[object, ...]) -> list[tuple[object, ...]]:
    return [(o.color, o.cls, o.row, o.col) for o in objects]  # type: ignore[attr-defined]


def test_no_pair_of_objects_is_shared_between_splits() -> None:
    found = {split: {frozenset(pair) for pair in pairs(split)} for split in SPLITS}
    assert {split: len(found[split]) for split in SPLITS} == {"train": 78, "validation": 18, "test": 24}
    for a, b in itertools.combinations(SPLITS, 2):
        assert not found[a] & found[b]
    for split in SPLITS:
        asked = {frozenset(w.things) for kind in ("and", "relation") for w in wishes(split, kind)}
        assert asked == found[split]


@pytest.mark.parametrize("kind", PROMPT_KINDS)
def test_every_prompt_reads_back(kind: str) -> None:
    for split in SPLITS:
        for wish in wishes(split, kind):
            assert read_prompt(wish.text) == wish and wish.kind == kind


@pytest.mark.parametrize("text", ["a red heart", "a red circle and a red circle", "four red circles", ""])
def test_a_foreign_prompt_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="none of the drawings world"):
        read_prompt(text)


def test_true_pictures_are_read_exactly_by_the_template_matcher() -> None:
    pairs_ = scenes_of("test", 300)
    readings = match_templates(np.stack([draw_array(scene) for _, scene in pairs_]))
    for (wish, scene), reading in zip(pairs_, readings, strict=True):
        assert content(reading.objects) == content(scene.objects) and not reading.unreadable
        assert [(o.x, o.y) for o in reading.objects] == [(o.x, o.y) for o in scene.objects]
        counts = drawings.judge(wish, reading)
        assert counts["exact"] == 1 and counts["extra"] == 0 and counts["matched"] == counts["wanted"]


def test_the_template_matcher_reads_through_noise_and_refuses_it_alone() -> None:
    rng = np.random.default_rng(3)
    pairs_ = scenes_of("test", 100, 4)
    clean = np.stack([draw_array(scene) for _, scene in pairs_])
    noisy = np.clip(clean + rng.normal(0, 12, clean.shape), 0, 255).astype(np.uint8)
    same = [
        content(r.objects) == content(s.objects)
        for r, (_, s) in zip(match_templates(noisy), pairs_, strict=True)
    ]
    assert np.mean(same) > 0.98
    for reading in match_templates(rng.integers(0, 256, (20, 32, 32, 3)).astype(np.uint8)):
        assert reading.objects == () and reading.unreadable == (0, 1, 2, 3)


def seen(*objects: tuple[str, str, int], unreadable: tuple[int, ...] = ()) -> Reading:
    return Reading(tuple(place(c, s, cell) for c, s, cell in objects), unreadable)


RED, BLUE = ("red", "circle"), ("blue", "square")
LEFT = Wish((RED, BLUE), "left of")


@pytest.mark.parametrize(
    ("wish", "reading", "expected"),
    [
        (LEFT, seen((*RED, 0), (*BLUE, 1)), {"exact": 1, "relation": 1, "matched": 2}),
        (LEFT, seen((*RED, 2), (*BLUE, 1)), {"exact": 1, "relation": 1}),
        (LEFT, seen((*RED, 1), (*BLUE, 0)), {"exact": 0, "relation": 0, "matched": 2, "count": 1}),
        (LEFT, seen((*RED, 0), (*BLUE, 2)), {"exact": 0, "relation": 0, "matched": 2}),
        (LEFT, seen((*RED, 0)), {"exact": 0, "relation": 0, "matched": 1, "count": 0}),
        (
            LEFT,
            seen((*RED, 0), (*BLUE, 1), ("green", "cross", 3)),
            {"exact": 0, "relation": 1, "extra": 1, "matched": 2},
        ),
        (LEFT, seen((*RED, 0), (*BLUE, 1), unreadable=(3,)), {"exact": 0, "unreadable": 1, "count": 0}),
        (
            Wish((RED, BLUE)),
            seen(("blue", "circle", 0), ("red", "square", 1)),
            {"matched": 0, "color": 2, "shape": 2, "extra": 2, "exact": 0, "relation_asked": 0},
        ),
        (Wish((RED,) * 2), seen((*RED, 0), (*RED, 3)), {"exact": 1, "matched": 2, "wanted": 2}),
        (Wish((RED,) * 2), seen((*RED, 0), (*RED, 1), (*RED, 2)), {"exact": 0, "extra": 1, "matched": 2}),
        (Wish((RED,)), seen(), {"exact": 0, "found": 0, "matched": 0}),
    ],
)
def test_verdicts(wish: Wish, reading: Reading, expected: dict[str, int]) -> None:
    counts = drawings.judge(wish, reading)
    assert {name: counts[name] for name in expected} == expected


def test_agreement_counts_cells() -> None:
    one = seen((*RED, 0), (*BLUE, 1))
    assert drawings.agreement(one, one) == 4
    assert drawings.agreement(one, seen((*RED, 0), ("blue", "cross", 1))) == 3
    assert drawings.agreement(one, seen((*RED, 0), unreadable=(1, 2))) == 2


@pytest.mark.parametrize("flaw", drawings.FLAWS)
def test_a_flawed_picture_is_wrong_in_that_fact_alone(flaw: str) -> None:
    rng = np.random.default_rng(1)
    for wish, scene in scenes_of("train", 60, 7):
        if flaw not in drawings.flaws_of(wish):
            with pytest.raises(ValueError, match="no relation"):
                drawings.flawed(scene, wish, flaw, rng)
            continue
        wrong = drawings.flawed(scene, wish, flaw, rng)
        reading = match_templates(draw_array(wrong)[None])[0]
        assert content(reading.objects) == content(wrong.objects)
        counts, n = drawings.judge(wish, reading), len(wish.things)
        assert counts["exact"] == 0
        colors, shapes, count = n, n, 1
        if flaw == "count":
            count, colors, shapes = 0, min(n, counts["found"]), min(n, counts["found"])
        elif flaw == "color":
            colors = n - 1
        elif flaw == "shape":
            shapes = n - 1
        assert (counts["color"], counts["shape"], counts["count"]) == (colors, shapes, count)
        if flaw == "relation":
            assert counts["matched"] == n and counts["relation"] == 0


def test_rows_are_stable_and_of_three_kinds() -> None:
    few, many = drawings.rows("train", 5, 3), drawings.rows("train", 9, 3)
    assert [r.prompt for r in few] == [r.prompt for r in many[:5]]
    assert few[2].completion.tobytes() == many[2].completion.tobytes()
    assert drawings.rows("train", 5, 4)[0].completion.tobytes() != few[0].completion.tobytes()
    for caption, prompt, pair in zip(
        few, drawings.rows("train", 5, 3, "prompt"), drawings.rows("train", 5, 3, "preference"), strict=True
    ):
        assert caption.prompt == prompt.prompt == pair.prompt
        assert prompt.completion is None and pair.completion is None
        assert pair.chosen.tobytes() == caption.completion.tobytes() != pair.rejected.tobytes()
        wish, scene = read_prompt(pair.prompt), Scene.from_dict(pair.meta["scene"])
        assert np.array_equal(np.asarray(pair.chosen), draw_array(scene))
        good, bad = (drawings.judge(wish, r) for r in drawings.detect([pair.chosen, pair.rejected]))
        assert good["exact"] == 1 and bad["exact"] == 0 and pair.meta["flaw"] in (*drawings.FLAWS, "stray")
    only = drawings.rows("validation", 20, 0, "prompt", prompt_kind="relation")
    assert {row.meta["kind"] for row in only} == {"relation"}
    with pytest.raises(UserError, match=r'"captions" is not one of .*caption'):
        drawings.rows("train", 1, 0, "captions")


def test_pictures_of_other_sizes_and_kinds() -> None:
    _, scene = scenes_of("test", 1)[0]
    small = drawings.draw(scene)
    large = small.resize((128, 128), Image.Resampling.NEAREST)
    readings = drawings.detect([small, large, np.asarray(small)])
    assert readings[0] == readings[1] == readings[2]
    with pytest.raises(UserError, match="found str"):
        drawings.detect(["a red circle"])
    with pytest.raises(UserError, match="template"):
        drawings.detect([small], "templates")


def test_an_unseen_tint_and_background_do_not_matter() -> None:
    wish, scene = Wish((RED, BLUE)), scene_for(Wish((RED, BLUE)), 5, "test")
    pictures = [draw_array(replace(scene, seed=s)) for s in range(30)]
    assert len({p.tobytes() for p in pictures}) == 30
    assert all(drawings.judge(wish, r)["exact"] for r in match_templates(np.stack(pictures)))
