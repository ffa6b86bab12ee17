"""The drawings task on true, flawed and missing pictures, and its diversity."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mmalign import registry
from mmalign.benchmarks.tasks.drawings import Drawings
from mmalign.errors import UserError
from mmalign.worlds import drawings
from mmalign.worlds.drawings.prompts import read_prompt
from mmalign.worlds.drawings.scene import draw, scene_for


def samples(task: Drawings, outputs: list[Any]) -> list[dict[str, Any]]:
    made = []
    for row, output in zip(task.rows(), outputs, strict=True):
        made.append({"id": row.id, "cluster": row.meta["cluster"], **task.score(row, output)})
    return made


def true_pictures(task: Drawings, seed: int = 0) -> list[Any]:
    return [draw(scene_for(read_prompt(row.prompt), seed + i, "test")) for i, row in enumerate(task.rows())]


def test_true_pictures_are_exact_under_both_detectors() -> None:
    task = Drawings(n=60)
    found = task.metrics(samples(task, true_pictures(task)))
    for name in ("exact", "exact/network", "bound/f1", "relation", "count", "agreement"):
        assert found[name]["value"] == 1.0, name
    assert found["extra"]["value"] == found["unreadable"]["value"] == 0.0
    assert found["exact"]["n"] == 60 and found["exact"]["ci_low"] < 1
    kinds = [row.meta["kind"] for row in task.rows()]
    assert set(kinds) == set(drawings.PROMPT_KINDS)
    assert set(task.headline) <= set(found)


def test_figures_follow_planted_errors() -> None:
    task = Drawings(n=80, kind="relation", split="validation", seed=2)
    rng = np.random.default_rng(0)
    outputs, flaws = [], []
    for i, row in enumerate(task.rows()):
        wish = read_prompt(row.prompt)
        scene = scene_for(wish, i, "validation")
        flaw = ("", "relation", "color", "count")[i % 4]
        outputs.append(draw(drawings.flawed(scene, wish, flaw, rng) if flaw else scene))
        flaws.append(flaw)
    scored = samples(task, outputs)
    found = task.metrics(scored)
    assert found["exact"]["value"] == found["exact/relation"]["value"] == flaws.count("") / 80
    assert found["color"]["value"] >= (160 - flaws.count("color") - flaws.count("count")) / 160
    kept = [s["scores"]["relation"] for s, flaw in zip(scored, flaws, strict=True) if flaw == "relation"]
    assert kept == [0] * flaws.count("relation")
    assert found["exact"]["value"] == found["exact/network"]["value"]


def test_a_missing_picture_is_wrong_and_not_parsed() -> None:
    task = Drawings(n=4)
    made = samples(task, [None, *true_pictures(task)[1:]])
    assert [s["parse_ok"] for s in made] == [False, True, True, True]
    found = task.metrics(made)
    assert found["exact"]["value"] == 0.75 and found["unreadable"]["value"] == 0.25


def test_repeats_give_diversity() -> None:
    task = Drawings(n=40, repeats=4)
    rows = task.rows()
    assert len(rows) == 40 and len({row.id for row in rows}) == 40
    varied = task.metrics(samples(task, true_pictures(task)))
    same = [draw(scene_for(read_prompt(row.prompt), 5, "test")) for row in rows]
    alike = task.metrics(samples(task, same))
    assert varied["diversity"]["value"] > 20 and alike["diversity"]["value"] == 0
    assert varied["diversity"]["ci_low"] < varied["diversity"]["value"] < varied["diversity"]["ci_high"]
    pictures = [np.asarray(p, dtype=float) for p in true_pictures(task)]
    whole = [
        np.sqrt(((a - b) ** 2).mean())
        for k in range(0, 40, 4)
        for i, a in enumerate(pictures[k : k + 4])
        for b in pictures[k : k + 4][:i]
    ]
    assert varied["diversity"]["value"] == pytest.approx(np.mean(whole), rel=0.15)


def test_options_are_checked_and_the_task_is_registered() -> None:
    with pytest.raises(UserError, match="multiple of repeats"):
        Drawings(n=10, repeats=4)
    with pytest.raises(UserError, match="prompt kind"):
        Drawings(kind="relations").rows()
    assert registry.load("tasks", "drawings") is Drawings
    assert registry.load("worlds", "drawings") is drawings
