"""Judges: the oracle with and without noise, a model, and people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mmalign.errors import UserError
from mmalign.feedback.collect import collect
from mmalign.feedback.facts import Fact, SceneExtractor, facts_of
from mmalign.feedback.judges import HFJudge, HumanJudge, SceneJudge
from mmalign.feedback.labels import label_rows
from mmalign.feedback.pairwise import OrderSwapped
from mmalign.feedback.quality import judge_agreement
from mmalign.types import Batch, LogP, Row, Segment
from mmalign.worlds import scenes
from tests.feedback.build import CountingJudge, WordExtractor, row


def scene_rows(n: int) -> list[Row]:
    """Caption rows with one segment per sentence."""
    result = []
    for item in scenes.rows("validation", n, seed=3):
        parts = scenes.parse(item.completion)
        cuts = [Segment(k, k + 1, s.text, s.char_start, s.char_end) for k, s in enumerate(parts)]
        result.append(replace(item, segments=tuple(cuts)))
    return result


def test_oracle_agrees_with_the_world() -> None:
    for item in label_rows(scene_rows(12), SceneJudge(), SceneExtractor()):
        scene = scenes.Scene.from_dict(item.meta["scene"])
        for segment in item.segments:
            facts = [f for s in scenes.parse(segment.text) for f in s.facts]
            for kind, label in segment.labels.items():
                known = [v for f in facts if f.type == kind and (v := scenes.verify(f, scene))]
                assert label == (0 if not known else min(known))


def test_label_noise_is_a_property_of_the_fact() -> None:
    rows = scene_rows(60)
    noisy = SceneJudge(label_noise=0.3, seed=1)
    facts = [facts_of(SceneExtractor(), [s.text for s in r.segments]) for r in rows]
    flat = [(r, f) for r, items in zip(rows, facts, strict=True) for segment in items for f in segment]
    clean = [SceneJudge().verify(r, [f])[0] for r, f in flat]
    first = [noisy.verify(r, [f])[0] for r, f in flat]
    assert first == [noisy.verify(replace(r, id="other"), [f])[0] for r, f in flat]
    known = [(a, b) for a, b in zip(clean, first, strict=True) if a]
    assert 0.2 < sum(a != b for a, b in known) / len(known) < 0.4
    assert all(b == 0 for a, b in zip(clean, first, strict=True) if a == 0)
    assert first != [SceneJudge(0.3, seed=2).verify(r, [f])[0] for r, f in flat]
    true = label_rows(rows, SceneJudge(), SceneExtractor())
    report = judge_agreement(label_rows(rows, noisy, SceneExtractor()), true)
    assert report["object"]["kappa"] < 0.9 and report["object"]["n"] == sum(len(r.segments) for r in rows)
    assert judge_agreement(true, true)["relation"]["accuracy"] == 1.0
    with pytest.raises(UserError, match="different rows"):
        judge_agreement(true, true[1:])


def test_oracle_names_what_is_missing() -> None:
    with pytest.raises(UserError, match='meta has no "scene"'):
        SceneJudge().verify(Row("x", "p"), [Fact("object", ("circle",))])
    with pytest.raises(UserError, match="label_noise"):
        SceneJudge(label_noise=2.0)


class FakeAdapter:
    """Knows the answer to one question: the first step of "yes" is likely when the prompt says so."""

    name = "fake"

    def __init__(self) -> None:
        self.seen: list[Row] = []

    def load(self, source: str, *, device: str = "cpu", dtype: str = "float32") -> nn.Module:
        """A module without weights."""
        return nn.Identity()

    def collate(self, rows: Sequence[Row]) -> Batch:
        """Keep the rows."""
        self.seen += rows
        return Batch(tuple(rows), {}, torch.ones(len(rows), 2, dtype=torch.bool))

    def logp(self, model: nn.Module, batch: Batch) -> LogP:
        """log P(yes) from the number in the prompt; the second step must not matter."""
        p = torch.tensor([float(r.prompt.split()[-1]) for r in batch.rows])
        yes = torch.tensor([r.completion == "yes" for r in batch.rows])
        first = torch.where(yes, p, 1 - p).log()
        return LogP(torch.stack([first, torch.where(yes, -9.0, 0.0)], 1), batch.mask)


def asks(*numbers: float) -> list[Any]:
    return [Fact("object", (str(p),), ask=f"is it {p}") for p in numbers]


def test_model_judge_compares_first_steps() -> None:
    adapter: Any = FakeAdapter()
    judge = HFJudge("x", adapter=adapter, band=0.1, batch_size=2)
    assert judge.probabilities(ROW, asks(0.9, 0.2, 0.55)) == pytest.approx([0.9, 0.2, 0.55], abs=1e-5)
    assert judge.verify(ROW, asks(0.9, 0.2, 0.55, 0.45, 0.61)) == [1, -1, 0, 0, 1]
    assert [r.completion for r in adapter.seen[:2]] == ["yes", "no"]
    assert judge.verify(ROW, []) == []
    assert HFJudge("x", adapter=adapter, threshold=0.8).verify(ROW, asks(0.7)) == [-1]
    with pytest.raises(UserError, match="same first token"):
        judge.probabilities(ROW, asks(0.5))
    with pytest.raises(UserError, match="question"):
        HFJudge("x", template="hm")


ROW = row("a", "o:cat .", "r:left a:red .")


def test_human_labels(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text(
        '{"id": "a", "segment": 0, "labels": {"object": 1, "attribute": 0}}\n'
        '{"id": "a", "fact": "a:red", "label": -1}\n'
    )
    judge = HumanJudge(path)
    rows = collect([ROW], judge, WordExtractor(), tmp_path / "out.jsonl", tmp_path / "cache")
    assert [dict(s.labels) for s in rows[0].segments] == [{"object": 1, "attribute": 0}, {}]
    assert judge.verify(ROW, [Fact("attribute", ("red",), "a:red"), Fact("object", ("q",), "q")]) == [-1, 0]
    for line, message in (
        ('{"segment": 0}', '"id"'),
        ('{"id": "a", "labels": {}}', '"segment"'),
        ('{"id": "a", "segment": 0, "labels": {"object": 3}}', "label 3"),
        ('{"id": "a", "segment": 0, "labels": {"object": -1}}', "differently"),
    ):
        (tmp_path / "bad.jsonl").write_text(path.read_text() + line + "\n")
        with pytest.raises(UserError, match=message):
            HumanJudge(tmp_path / "bad.jsonl")
    with pytest.raises(UserError, match="no such file"):
        HumanJudge(tmp_path / "none.jsonl")


class Biased:
    """Prefers the longer answer, and the first place."""

    def compare(self, row: Row, first: str, second: str) -> float:
        """A probability that leans to the first."""
        return min(1.0, max(0.0, 0.5 + 0.1 * (len(first) - len(second)) + 0.2))


def test_swapping_orders_cancels_the_bias() -> None:
    swapped = OrderSwapped(Biased())
    there, back = swapped.prefer(ROW, "abc", "a"), swapped.prefer(ROW, "a", "abc")
    assert there.probability + back.probability == pytest.approx(1.0)
    assert there.probability > 0.5
    assert swapped.prefer(ROW, "x", "y").probability == pytest.approx(0.5)
    report = swapped.report()
    assert report["n"] == 3 and report["position_bias"] == pytest.approx(0.2)
    assert OrderSwapped(Biased()).report()["position_bias"] is None


def test_facts_have_a_question() -> None:
    assert "a red cat" in Fact("attribute", ("red", "cat"), "a red cat").question()
    extractor = SceneExtractor()
    assert extractor.well_formed("there is a circle .") and not extractor.well_formed("circle a there")
    assert facts_of(extractor, []) == []
    assert [len(items) > 0 for items in facts_of(extractor, ["there is a circle .", "hm ."])] == [True, False]
    assert CountingJudge().verify(ROW, []) == []
