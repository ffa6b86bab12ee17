"""Facts in the reward model's prompt, the symbolic bonus, and the whole recipe on the toy modality."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from mmalign.config.load import load_config
from mmalign.errors import UserError
from mmalign.feedback.facts import SceneExtractor
from mmalign.feedback.judges.scenes import SceneJudge
from mmalign.pipeline.dry_run import dry_run
from mmalign.pipeline.run import run_recipe
from mmalign.rewards.factual import CorrectChoice, CorrectFacts, Facts
from mmalign.rewards.factual.recipe import Factual
from mmalign.rewards.factual.terms import choice_score
from mmalign.rewards.preference.view import View, dimmed
from mmalign.rewards.watch import WatchTruth
from mmalign.testing.policies import ToyAdapter, ToyReward, toy_rows
from mmalign.types import Rollout, Row
from mmalign.worlds import scenes
from mmalign.worlds.scenes.telling import tell

ADAPTER = ToyAdapter()


def captioned(n: int = 6) -> list[Row]:
    return [Row(f"p{k}", "d", meta={"captions": [f"fact {k} {j}" for j in range(3)]}) for k in range(n)]


def answers(*texts: str, rows: list[Row] | None = None) -> Rollout:
    rows = rows or [Row(f"r{k}", "q") for k in range(len(texts))]
    said = tuple(replace(row, completion=text) for row, text in zip(rows, texts, strict=True))
    mask = torch.tensor([[True, True, False]] * len(said))
    return Rollout(said, torch.zeros(mask.shape), mask, torch.ones(len(said)).bool(), torch.arange(len(said)))


def test_facts_come_from_a_column_of_the_rows() -> None:
    row = captioned(1)[0]
    told = Facts(limit=2).text(row)
    assert told == Facts(limit=2).text(replace(row, id="p0#3")) and len(told.split("fact")) == 3
    assert Facts(shuffle=False).own(row) == ["fact 0 0", "fact 0 1", "fact 0 2"]
    assert Facts(column="note").own(replace(row, meta={"note": "one text"})) == ["one text"]
    with pytest.raises(UserError, match="captions"):
        Facts().text(Row("x", "d", meta={"caption": "a"}))
    with pytest.raises(UserError, match="list of texts"):
        Facts().text(Row("x", "d", meta={"captions": [1]}))


def test_a_scene_tells_only_the_truth() -> None:
    for row in scenes.rows("validation", 25, 3):
        scene = scenes.Scene.from_dict(row.meta["scene"])
        told = tell(scene)
        assert Facts().own(row) == told and len(told) <= 10
        facts = [fact for text in told for sentence in scenes.parse(text) for fact in sentence.facts]
        assert all(scenes.verify(fact, scene) == 1 for fact in facts)
        stated = {fact for fact in facts if fact.type == "object"}
        assert stated == scenes.true_facts(scene)["object"]


def test_other_facts_are_never_the_rows_own() -> None:
    rows = captioned()
    other = Facts(show="other", pool=Facts().pooled(rows))
    for row in rows:
        assert other.text(row) not in (Facts().text(row), "")
        assert other.text(row) in {" ".join(Facts().own(r)) for r in rows if r.id != row.id}
        assert other.text(row) == other.text(replace(row, id=f"{row.id}#1"))
    assert Facts.described(json.loads(json.dumps(other.describe()))) == other
    with pytest.raises(UserError, match="two rows"):
        Facts(show="other", pool=Facts().pooled(rows[:1]))


def test_the_view_adds_facts_to_texts_and_messages_and_leaves_the_row_alone() -> None:
    view = View(ADAPTER, facts=Facts(shuffle=False, limit=1), facts_template="{prompt} | {facts}")
    row = captioned(1)[0]
    assert view(row).prompt == "d | fact 0 0" and row.prompt == "d"
    chat = [{"role": "user", "content": "a {facts} b"}, {"role": "assistant", "content": "ok"}]
    shown = view(replace(row, prompt=chat)).prompt
    assert shown[0]["content"] == "a {facts} b | fact 0 0" and shown[1] == chat[1]
    parts = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what"}]}]
    content = view(replace(row, prompt=parts)).prompt[0]["content"]
    assert content[:2] == parts[0]["content"] and content[2] == {"type": "text", "text": " | fact 0 0"}


def test_media_can_be_dimmed() -> None:
    row = scenes.rows("train", 1)[0]
    image = row.media[0]
    half = dimmed(ADAPTER, row, 0.125).media[0]
    assert half.size == image.size and len(set(half.getdata())) > 1
    spread = [torch.tensor(list(i.convert("L").getdata())).float().std() for i in (image, half)]
    assert spread[1] < 0.9 * spread[0]
    assert dimmed(ADAPTER, row, 1.0) is row
    toy = toy_rows(1)[0]
    assert not dimmed(ADAPTER, toy, 0.0).media[0].any()
    with pytest.raises(UserError, match="needs images"):
        dimmed(ADAPTER, toy, 0.5)
    assert isinstance(half, Image.Image)


@pytest.mark.parametrize(
    ("answer", "truth", "score"),
    [
        ("B. a cat", "B", 1.0), ("the answer is (b)", "B", 1.0), ("A", "B", 0.0), ("a big dog", "B", 0.0),
        ("No, none", "no", 0.5), ("Yes", "no", -0.5), ("maybe", "no", 0.0), ("yes", "yes", 0.0), ("", "B", 0.0),
    ],
)  # fmt: skip
def test_choice_scores(answer: str, truth: str, score: float) -> None:
    assert choice_score(answer, truth) == score


def test_the_bonus_is_paid_on_the_last_real_step() -> None:
    rows = [Row("a", "q", meta={"label": "B"}), Row("b", "q", meta={"label": "no"}), Row("c", "q")]
    paid = CorrectChoice(2.0)(answers("B", "yes", "B", rows=rows)).per_step
    assert paid.tolist() == [[0, 2, 0], [0, -1, 0], [0, 0, 0]]
    with pytest.raises(UserError, match="letter"):
        CorrectChoice()(answers("B", rows=[Row("a", "q", meta={"label": 3})]))


def test_facts_are_checked_by_the_judge() -> None:
    row = scenes.rows("train", 1)[0]
    scene = scenes.Scene.from_dict(row.meta["scene"])
    present = scene.classes()[0]
    absent = next(c for c in ("circle", "square", "star", "heart", "ring", "cross") if not scene.count(c))
    texts = (
        f"there is a {present} .",
        f"there is a {absent} .",
        f"there is a {present} . there is a {absent} .",
        "no .",
    )
    reward = CorrectFacts(0.5, SceneJudge(), SceneExtractor())
    assert reward(answers(*texts, rows=[row] * 4)).per_step[:, 1].tolist() == [0.5, -0.5, 0.0, 0.0]


def test_watching_the_truth_changes_no_reward() -> None:
    row = scenes.rows("train", 1)[0]
    scene = scenes.Scene.from_dict(row.meta["scene"])
    absent = next(c for c in ("circle", "square", "star", "heart", "ring", "cross") if not scene.count(c))
    said = answers(f"there is a {scene.classes()[0]} . there is a {absent} .", "no .", rows=[row] * 2)
    inner = CorrectFacts(1.0, SceneJudge(), SceneExtractor())
    watched = WatchTruth(inner, SceneJudge(), SceneExtractor())(said)
    assert torch.equal(watched.per_step, inner(said).per_step)
    assert watched.notes["truth/wrong"].tolist() == [0.5, 0.0] and watched.notes["truth/net"].tolist() == [
        0.0,
        0.0,
    ]
    assert not ToyReward()(replace(said, rows=tuple(toy_rows(2)))).notes


def config(folder: Path, *flags: str) -> Any:
    small = [
        "--stages=feedback,reward_model,ppo", "--feedback.n_prompts=24", "--feedback.n_heldout=16",
        "--feedback.n_samples=3", "--data.n_train=24", "--ppo.max_steps=3", "--ppo.rollout_batch_size=6",
        "--reward_model.max_steps=6", "--reward_model.types=object,attribute", "--reward.name=factual",
        "--reward.malformed_penalty=0", "--reward_model.facts.column=captions", "--guard.enabled=false",
        "--reward_model.facts.template={prompt} {facts}", "--reward.watch_truth=true", "--seed=1",
    ]  # fmt: skip
    return load_config("toy", [*small, f"--output_dir={folder}", *flags])


def with_captions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Toy rows with a prompt in words and the truth in a column ``captions``."""
    from mmalign.testing import toy_world

    made = toy_world.rows

    def rows(split: str, n: int, seed: int, kind: str = "caption") -> list[Row]:
        """Every row tells its right answer."""
        return [
            replace(row, prompt="i", meta={**row.meta, "captions": [str(row.chosen)]})
            for row in made(split, n, seed, kind)
        ]

    monkeypatch.setattr(toy_world, "rows", rows)


def test_the_recipe_trains_pays_and_keeps_facts_from_the_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_captions(monkeypatch)
    seen: list[str] = []
    sample = ToyAdapter.sample

    def watched(self: ToyAdapter, model: Any, rows: Any, *args: Any, **options: Any) -> Rollout:
        """Record every prompt the policy answers."""
        seen.extend(row.prompt for row in rows)
        return sample(self, model, rows, *args, **options)

    monkeypatch.setattr(ToyAdapter, "sample", watched)
    run_recipe(config(tmp_path / "run", "--reward.correct_bonus=1", "--reward.correct_by=facts"))
    found = json.loads((tmp_path / "run/stages/reward_model/quality.json").read_text())
    assert found["preference"]["n"] > 10 and found["other_facts"]["n"] == found["preference"]["n"]
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    ppo = [line for line in lines if line["stage"] == "ppo"]
    assert len(ppo) == 3 and {"rewards/score", "rewards/correct", "truth/wrong", "truth/net"} <= set(ppo[0])
    assert set(seen) == {"i"}  # the policy's prompts hold no facts
    model = Factual().load(ADAPTER, tmp_path / "run/stages/reward_model/final", device="cpu", dtype="float32")
    row = toy_rows(1)[0]
    shown = model.view(replace(row, prompt="i", meta={**row.meta, "captions": ["a . d ."]}))
    assert shown.prompt == "i a . d ."


def test_a_killed_reward_model_stage_resumes_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_captions(monkeypatch)
    flags = (
        "--stages=feedback,reward_model",
        "--reward_model.save_steps=2",
        "--reward_model.facts.show=other",
    )
    run_recipe(config(tmp_path / "whole", *flags))
    from mmalign.rewards.preference.model import PreferenceRewardModel

    loss, calls = PreferenceRewardModel.loss, []

    def killed(self: PreferenceRewardModel, groups: Any) -> Any:
        """Stop in the fifth step."""
        calls.append(1)
        if len(calls) == 5:
            raise RuntimeError("killed")
        return loss(self, groups)

    with monkeypatch.context() as patch:
        patch.setattr(PreferenceRewardModel, "loss", killed)
        with pytest.raises(RuntimeError, match="killed"):
            run_recipe(config(tmp_path / "cut", *flags))
    run_recipe(config(tmp_path / "cut", *flags))
    for name in ("final/heads.safetensors", "final/trunk-shared/model.safetensors", "quality.json"):
        whole, cut = (
            (tmp_path / run / "stages/reward_model" / name).read_bytes() for run in ("whole", "cut")
        )
        assert whole == cut, name
    record = json.loads((tmp_path / "cut/stages/reward_model/final/reward_model.json").read_text())
    assert len(record["view"]["facts"]["pool"]) > 1


def test_a_dry_run_ranks_a_few_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_captions(monkeypatch)
    dry_run(config(tmp_path / "run", "--stages=feedback,reward_model,grpo", "--grpo.num_generations=2"))
    assert "reward_model" in capsys.readouterr().out and not (tmp_path / "run").exists()
