"""Ranked answers: where they come from, how they are paired, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mmalign.config.load import load_config
from mmalign.errors import UserError
from mmalign.pipeline.run import run_recipe
from mmalign.rewards.preference import Ranked, View, ranked_from_feedback, ranked_from_rows
from mmalign.rewards.preference.data import prompt_id, shuffled
from mmalign.rewards.preference.losses import compared
from mmalign.rewards.preference.options import Options
from mmalign.testing.policies import ToyAdapter, toy_rows
from mmalign.types import Row, Segment


def labelled(name: str, *labels: int) -> Row:
    segments = tuple(Segment(k, k + 1, f"s{k} .", labels={"object": label}) for k, label in enumerate(labels))
    return Row(name, "d", completion="a .", segments=segments)


def test_labelled_answers_are_ranked() -> None:
    rows = [
        labelled("p#0", 1, 1, 1, -1),
        labelled("p#1", 1),
        labelled("p#2", -1),
        labelled("q#0", 1),
        labelled("q#1", 1),
    ]
    by_labels = ranked_from_feedback(rows)
    assert [g.worth for g in by_labels] == [(2.0, 1.0, -1.0)]  # q ties and gives no ranking
    careful = ranked_from_feedback(rows, "errors_first")[0]
    assert sorted(range(3), key=lambda k: -careful.worth[k]) == [1, 0, 2]
    with pytest.raises(UserError, match="different worth"):
        ranked_from_feedback(rows[3:])


def test_shuffled_preferences_keep_answers_and_numbers() -> None:
    groups = ranked_from_rows(toy_rows(30))
    mixed = shuffled(groups, 0)
    assert [g.rows for g in mixed] == [g.rows for g in groups]
    assert all(sorted(a.worth) == sorted(b.worth) for a, b in zip(mixed, groups, strict=True))
    assert mixed != groups and mixed == shuffled(groups, 0) != shuffled(groups, 1)


def test_pairs_point_at_their_rows_and_every_prompt_counts_once() -> None:
    row = toy_rows(1)[0]
    groups = [Ranked((row,) * 3, (0.0, 2.0, 2.0)), Ranked((row, row), (1.0, 0.0))]
    pairs = compared(groups)
    assert list(zip(pairs.better.tolist(), pairs.worse.tolist(), strict=True)) == [(1, 0), (2, 0), (3, 4)]
    assert pairs.weight.tolist() == [0.5, 0.5, 1.0]
    assert prompt_id(Row("a#b#3", "d")) == "a#b" and prompt_id(Row("x:chosen", "d")) == "x"


def test_refusals_name_the_row_or_option() -> None:
    row = toy_rows(1)[0]
    with pytest.raises(UserError, match="did you mean"):
        Options(loss="plackett")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="needs pool"):
        Options(read="surprise")
    with pytest.raises(UserError, match="'answers' and 'scores'"):
        ranked_from_rows([replace(row, meta={"answers": ["a", "b"], "scores": [1]})])
    with pytest.raises(UserError, match="'margin' must be a number"):
        ranked_from_rows([replace(row, meta={"margin": "big"})])
    with pytest.raises(ValueError, match="two or more"):
        Ranked((row,), (1.0,))
    with pytest.raises(UserError, match="expected"):
        View(ToyAdapter(), facts_template="{facts}")


def test_the_recipe_learns_from_a_file_of_ranked_answers(tmp_path: Path) -> None:
    for name, seed, n in (("train", 1, 16), ("held", 2, 8)):
        lines = []
        for row in toy_rows(n, seed):
            texts = [str(row.chosen), str(row.rejected), "c . g ."]
            lines.append({"id": row.id, "prompt": "d", "answers": texts, "scores": [2, 1, 0], "margin": 0.1})
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    flags = [
        f"--output_dir={tmp_path / 'run'}", "--modality=toy", "--model.model_name_or_path=toy:1",
        f"--data.train={tmp_path / 'train.jsonl'}", f"--data.validation={tmp_path / 'held.jsonl'}",
        "--reward_model.max_steps=2", "--reward_model.ranking.loss=plackett_luce", "--guard.enabled=false",
    ]  # fmt: skip
    run_recipe(load_config("reward-model", flags))
    found = json.loads((tmp_path / "run/stages/reward_model/quality.json").read_text())["preference"]
    assert found["n"] == 24 and found["prompts"] == 8
