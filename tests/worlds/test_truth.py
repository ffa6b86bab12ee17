"""Truth is geometry: verify agrees with brute force, relations are antisymmetric, splits are disjoint."""

from __future__ import annotations

import hashlib
import itertools
import json

import numpy as np
import pytest

from mmalign.errors import UserError
from mmalign.worlds.scenes import (
    CaptionNoise,
    Scene,
    attribute_fact,
    caption,
    count_fact,
    generate,
    object_fact,
    parse,
    relation_fact,
    render,
    true_facts,
    verify,
)
from mmalign.worlds.scenes.captions import (
    COLOR_HABIT,
    RELATION_HABIT,
    SIZE_HABIT,
    TEXTURE_HABIT,
    believe,
)
from mmalign.worlds.scenes.scene import MARGIN, SIDE
from mmalign.worlds.scenes.words import (
    ATTRIBUTES,
    CLASSES,
    FAVOURITE_COLOR,
    NUMBERS,
    OPPOSITE,
    PARTNER,
    RELATIONS,
)

SCENES = [generate(i, split) for split in ("train", "validation", "test") for i in range(400)]
AXIS = {"left of": ("x", 1), "right of": ("x", -1), "above": ("y", 1), "below": ("y", -1)}


def _brute_relation(scene: Scene, a: str, relation: str, b: str) -> int:
    """Pictures have y pointing down, so above means a smaller y."""
    name, sign = AXIS[relation]
    verdicts = []
    for one, two in itertools.permutations(scene.objects, 2):
        if (one.cls, two.cls) == (a, b):
            gap = sign * (getattr(two, name) - getattr(one, name))
            verdicts.append(1 if gap > MARGIN else -1 if gap < -MARGIN else 0)
    if 1 in verdicts:
        return 1
    return -1 if verdicts and set(verdicts) == {-1} else 0


def test_verify_equals_brute_force() -> None:
    for scene in SCENES:
        names = [o.cls for o in scene.objects]
        for cls in CLASSES:
            assert verify(object_fact(cls), scene) == (1 if cls in names else -1)
            for n, word in enumerate(NUMBERS, start=1):
                wanted = 0 if cls not in names else 1 if names.count(cls) == n else -1
                assert verify(count_fact(cls, word), scene) == wanted
            for kind, values in ATTRIBUTES.items():
                shown = {getattr(o, kind) for o in scene.objects if o.cls == cls}
                for value in values:
                    wanted = 0 if cls not in names else 1 if value in shown else -1
                    assert verify(attribute_fact(cls, value), scene) == wanted
        for a, b in itertools.permutations(set(names), 2):
            for relation in RELATIONS:
                assert verify(relation_fact(a, relation, b), scene) == _brute_relation(scene, a, relation, b)


def test_relations_are_antisymmetric_and_canonical() -> None:
    for a, b in itertools.permutations(CLASSES, 2):
        for relation in RELATIONS:
            assert relation_fact(a, relation, b) == relation_fact(b, OPPOSITE[relation], a)
    for scene in SCENES:
        single = [c for c in scene.classes() if scene.count(c) == 1]
        for a, b in itertools.combinations(single, 2):
            for relation in ("left of", "above"):
                one, two = (
                    verify(relation_fact(a, relation, b), scene),
                    verify(relation_fact(b, relation, a), scene),
                )
                assert one == -two


def test_true_facts_are_exactly_the_facts_that_verify() -> None:
    for scene in SCENES[:300]:
        facts = true_facts(scene)
        assert all(verify(f, scene) == 1 for kind in facts.values() for f in kind)
        every = {relation_fact(a, r, b) for a, b in itertools.permutations(CLASSES, 2) for r in RELATIONS}
        assert facts["relation"] == {f for f in every if verify(f, scene) == 1}
        assert {f.key[0] for f in facts["object"]} == set(scene.classes())
        counted = {f.key[1] for f in facts["attribute"] if f.key[0] == "count"}
        assert counted == {c for c in CLASSES if scene.count(c) > 1}


def test_no_scene_repeats_within_or_across_splits() -> None:
    seen = [
        s.objects
        for split in ("train", "validation", "test")
        for s in (generate(i, split) for i in range(2000))
    ]
    assert len(set(seen)) == len(seen)
    assert len({generate(i, s).seed for s in ("train", "test") for i in range(500)}) == 1000


def test_scenes_follow_their_priors() -> None:
    scenes = [generate(i, "train") for i in range(3000)]
    assert {len(s.objects) for s in scenes} == {2, 3, 4, 5}
    duplicate = np.mean([len(s.classes()) < len(s.objects) for s in scenes])
    assert duplicate == pytest.approx(0.2, abs=0.03)
    together = np.mean([PARTNER[c] in s.classes() for s in scenes for c in s.classes()])
    assert 0.55 < together < 0.75
    favourite = np.mean([o.color == FAVOURITE_COLOR[o.cls] for s in scenes for o in s.objects])
    assert favourite == pytest.approx(0.5 + 0.5 / 6, abs=0.02)
    assert len({(o.row, o.col) for s in scenes for o in s.objects}) == 16


def test_noise_has_the_declared_rates() -> None:
    noise, rng = CaptionNoise(), np.random.default_rng(0)
    hits: dict[str, list[bool]] = {k: [] for k in ("theme", "color", "texture", "size", "relation")}
    for i in range(2000):
        scene = generate(i, "train")
        believed = believe(scene, rng, noise)
        if any(PARTNER[c] not in scene.classes() for c in scene.classes()):
            hits["theme"].append(len(believed) > len(scene.objects))
        if len(believed) == len(scene.objects):
            for true, told in zip(scene.objects, believed, strict=True):
                if true.cls in COLOR_HABIT and true.color != FAVOURITE_COLOR[true.cls]:
                    hits["color"].append(told.color != true.color)
                if TEXTURE_HABIT.get(true.cls, true.texture) != true.texture:
                    hits["texture"].append(told.texture != true.texture)
                if SIZE_HABIT.get(true.cls, true.size) != true.size:
                    hits["size"].append(told.size != true.size)
        for sentence in parse(caption(scene, rng, noise)):
            words = sentence.text.split()
            said = [f for f in sentence.facts if f.type == "relation"]
            if said and words[1] in RELATION_HABIT:
                flipped = verify(said[0], scene) == -1
                if flipped or words[3] in ("right", "below"):
                    hits["relation"].append(flipped)
                    assert not flipped or words[3] in ("left", "above")
    for name, found in hits.items():
        assert np.mean(found) == pytest.approx(getattr(noise, name), abs=0.04), name
        assert len(found) > 150


def test_no_noise_means_no_error() -> None:
    quiet = CaptionNoise(theme=0.0, color=0.0, texture=0.0, size=0.0, relation=0.0)
    for i in range(200):
        scene = generate(i, "test")
        assert caption(scene, np.random.default_rng(i), quiet).count(".") >= len(scene.objects)
        assert believe(scene, np.random.default_rng(i), quiet) == list(scene.objects)


def test_rendering_depends_on_the_scene_alone() -> None:
    scene = generate(7, "test")
    again = Scene.from_dict(json.loads(json.dumps(scene.to_dict())))
    assert again == scene
    picture = render(scene)
    assert picture.size == (SIDE, SIDE) and picture.mode == "RGB"
    digest = hashlib.sha256(picture.tobytes()).hexdigest()
    assert hashlib.sha256(render(again).tobytes()).hexdigest() == digest
    assert hashlib.sha256(render(generate(8, "test")).tobytes()).hexdigest() != digest


def test_objects_are_visible_where_the_scene_says() -> None:
    for i in range(100):
        scene = generate(i, "validation")
        pixels = np.asarray(render(scene), np.float32)
        empty = pixels.reshape(4, 16, 4, 16, 3).std(axis=(1, 3)).mean(-1)
        occupied = {(o.row, o.col) for o in scene.objects}
        inside = np.mean([empty[cell] for cell in occupied])
        outside = np.mean([empty[r, c] for r in range(4) for c in range(4) if (r, c) not in occupied])
        assert inside > outside


def test_unknown_split_names_the_nearest() -> None:
    with pytest.raises(UserError, match='did you mean "train"'):
        generate(0, "trian")
