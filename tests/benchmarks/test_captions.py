"""Scenes captions: oracle, empty, lying, silent and repeating captioners, against counts made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmalign.benchmarks.metrics.captions import CAPTION_METRICS, caption_scores
from mmalign.benchmarks.tasks.scenes import ScenesCaptions
from mmalign.evals import score_outputs
from mmalign.worlds import scenes
from mmalign.worlds.scenes.words import PLURALS

FACT = scenes.object_fact


def values(results: dict) -> dict:
    return {name: entry["value"] for name, entry in results["metrics"].items()}


def answered(tmp_path: Path, write: object, n: int = 12) -> dict:
    task = ScenesCaptions(n=n)
    rows = task.rows()
    return score_outputs(
        task, {row.id: write(scenes.Scene.from_dict(row.meta["scene"])) for row in rows}, tmp_path
    )


def everything(scene: scenes.Scene) -> str:
    """Every true object and attribute fact, said plainly."""
    said = [f"there is a {fact.key[0]} ." for fact in scenes.true_facts(scene)["object"]]
    for fact in scenes.true_facts(scene)["attribute"]:
        kind, cls, value = fact.key
        said.append(f"i see {value} {PLURALS[cls]} ." if kind == "count" else f"the {cls} is {value} .")
    for fact in scenes.true_facts(scene)["relation"]:
        said.append(f"the {fact.key[1]} is {fact.key[0]} the {fact.key[2]} .")
    return " ".join(said)


def test_oracle_that_says_everything(tmp_path: Path) -> None:
    found = values(answered(tmp_path, everything))
    assert found["hallucination/overall"] == found["chair_i"] == found["chair_s"] == 0.0
    for kind in scenes.FACT_TYPES:
        assert found[f"precision/{kind}"] == found[f"fact_f1/{kind}"] == 1.0
        assert found[f"coverage/{kind}"] == 1.0
    assert found["fact_f1/macro"] == pytest.approx(1.0) and found["malformed"] == 0.0


def test_empty_output_has_no_rate_no_coverage_and_is_not_parsed(tmp_path: Path) -> None:
    results = answered(tmp_path, lambda scene: "")
    found = values(results)
    assert results["n_parsed"] == 0 and found["empty"] == 1.0
    assert found["hallucination/overall"] is None and found["chair_i"] is None
    assert found["coverage/object"] == found["fact_f1/macro"] == found["sentences_per_caption"] == 0.0


def test_silence_about_relations_earns_zero_there(tmp_path: Path) -> None:
    quiet = values(answered(tmp_path, lambda s: " . ".join(f"there is a {c}" for c in s.classes()) + " ."))
    assert quiet["hallucination/relation"] == 0.0 and quiet["hallucination_when_stated/relation"] is None
    assert quiet["fact_f1/relation"] == quiet["coverage/relation"] == 0.0
    assert quiet["fact_f1/macro"] == pytest.approx(1 / 3)


def test_a_captioner_that_names_absent_classes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def lie(scene: scenes.Scene) -> str:
        from mmalign.worlds.scenes.questions import absent_class

        return f"there is a {absent_class(scene, 'random', rng)} . there is a {scene.classes()[0]} ."

    found = values(answered(tmp_path, lie))
    assert found["hallucination/overall"] == found["hallucination/object"] == found["chair_i"] == 0.5
    assert found["chair_s"] == 1.0 and found["hallucination/attribute"] == 0.0
    assert found["precision/object"] == 0.5


def test_counts_of_one_caption_by_hand() -> None:
    red = scenes.attribute_fact("circle", "red")
    objects = frozenset({FACT("circle"), FACT("star")})
    truth = {"object": objects, "attribute": frozenset({red}), "relation": frozenset()}
    sentences = [
        ("there is a red circle .", True, [(FACT("circle"), 1), (red, 1)]),
        ("there is a red circle .", True, [(FACT("circle"), 1), (red, 1)]),
        ("there is a blue heart .", True, [(FACT("heart"), -1), (scenes.attribute_fact("heart", "blue"), 0)]),
        ("red red .", False, []),
    ]
    counts = caption_scores(sentences, truth)
    assert (counts["sentences"], counts["stating"], counts["malformed"], counts["repeated"]) == (4, 3, 1, 1)
    assert (counts["mentions"], counts["mentions_false"], counts["hallucinated"]) == (3, 1, 1)
    assert [counts[f"{part}_object"] for part in ("true", "false", "found", "wanted")] == [1, 1, 1, 2]
    assert (counts["hallucinated_attribute"], counts["stating_attribute"], counts["true_attribute"]) == (
        0,
        2,
        1,
    )


def test_macro_f1_is_the_mean_of_the_types(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    found = values(answered(tmp_path, lambda s: scenes.caption(s, rng, scenes.CaptionNoise())))
    parts = []
    for kind in scenes.FACT_TYPES:
        p, r = found[f"precision/{kind}"], found[f"coverage/{kind}"]
        parts.append(2 * p * r / (p + r))
        assert found[f"fact_f1/{kind}"] == pytest.approx(parts[-1])
    assert found["fact_f1/macro"] == pytest.approx(sum(parts) / 3)


def test_every_metric_has_an_interval_that_holds_its_value(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    results = answered(tmp_path, lambda s: scenes.caption(s, rng, scenes.CaptionNoise()))
    assert set(results["metrics"]) == set(CAPTION_METRICS)
    for name, entry in results["metrics"].items():
        if entry["value"] is not None:
            assert entry["ci_low"] - 1e-12 <= entry["value"] <= entry["ci_high"] + 1e-12, name
            assert entry["n"] == 12
