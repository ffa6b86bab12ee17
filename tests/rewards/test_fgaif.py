"""Reward models: read at segment ends, learn, save, and pay through the shared shaping."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mmalign.errors import UserError
from mmalign.feedback.facts import Fact
from mmalign.rewards.fgaif import FGAIFReward, OracleReward, SegmentRewardModel, Shaping, quality
from mmalign.rewards.fgaif.data import IGNORE, label_means, segment_labels, segment_rows
from mmalign.rewards.fgaif.heads import read_segments
from mmalign.rewards.fgaif.reward import scores_from_probabilities
from mmalign.rng import generator
from mmalign.testing.policies import ToyAdapter, toy_answer, toy_rows
from mmalign.types import Batch, Rollout, Row

TYPES = ("object", "attribute")
ADAPTER = ToyAdapter()


class ToyExtractor:
    """The first word names what is seen (object), every later one what was said (attribute)."""

    def extract(self, text: str) -> list[list[Fact]]:
        words = [word for word in text.split() if word != "."]
        kinds = {"a": "object", "b": "object", "c": "object"}
        return [[Fact(kinds.get(word, "attribute"), (word,), word)] for word in words]


class ToyJudge:
    """True where the word stands in the row's right answer."""

    name = "toy"

    def verify(self, row: Row, facts: list[Fact]) -> list[int]:
        right = toy_answer(row).split()
        return [1 if fact.key[0] in right else -1 for fact in facts]


def answered(n: int = 12) -> Rollout:
    model = ADAPTER.load("toy:0")
    return ADAPTER.sample(model, toy_rows(n), 2, generator(0, "t"), max_steps=8)


def labelled(n: int = 12) -> list[Row]:
    rows = [row for row in answered(n).rows if row.segments]
    return [
        replace(
            row,
            segments=tuple(
                replace(s, labels={"object": (-1, 0, 1)[(k + len(s.text)) % 3], "attribute": k % 2})
                for k, s in enumerate(row.segments)
            ),
        )
        for row in rows
    ]


def build(**options: object) -> SegmentRewardModel:
    torch.manual_seed(0)
    return SegmentRewardModel.build(ADAPTER, "toy:0", toy_rows(1)[0], TYPES, **options)  # type: ignore[arg-type]


def randomise(model: SegmentRewardModel) -> SegmentRewardModel:
    for head in model.heads.values():
        torch.nn.init.normal_(head.last.weight)
    return model


def test_completion_context_reads_the_state_after_the_last_step_of_the_segment() -> None:
    model = randomise(build(read="state", head="linear"))
    rows = labelled()
    logits = model.logits(rows)
    batch = ADAPTER.collate(rows)
    hidden = ADAPTER.logp(model.trunks["shared"], batch, hidden=True).hidden
    assert hidden is not None
    states = torch.cat([hidden[b, [s.end for s in row.segments]] for b, row in enumerate(rows)])
    assert torch.allclose(logits["object"], model.heads["object"](states), atol=1e-6)


def test_prediction_does_not_depend_on_batching_or_order() -> None:
    rows = labelled()
    for model in (randomise(build()), randomise(build(shared_trunk=False))):
        together, alone = model.predict(rows), model.predict(rows, batch_size=1)
        for kind in TYPES:
            assert together[kind].shape == (sum(len(row.segments) for row in rows), 3)
            assert torch.allclose(together[kind], alone[kind], atol=1e-6)
            assert torch.allclose(together[kind].sum(-1), torch.ones(len(together[kind])))
    assert model.predict([replace(rows[0], segments=())])["object"].shape == (0, 3)


def test_segment_rows_are_asked_once() -> None:
    rows = labelled(3)
    twice = [*rows, *rows]
    units = segment_rows(twice, "is this true : {segment} ?", "a")
    n = sum(len(row.segments) for row in rows)
    assert len(units.rows) <= n and units.index[:n] == units.index[n:]
    texts = [s.text.strip() for row in twice for s in row.segments]
    assert [units.rows[i].prompt for i in units.index] == [f"is this true : {text} ?" for text in texts]
    assert all(unit.completion == "a" and unit.segments == () for unit in units.rows)
    with pytest.raises(UserError, match="segment"):
        segment_rows(rows, "is this true?", "a")


class AskedToy(ToyAdapter):
    """A toy that understands prompts in words."""

    def collate(self, rows: Sequence[Row]) -> Batch:
        """Letters become prompt tokens."""
        return super().collate(
            [
                replace(r, prompt=[3 + ord(c) % 5 for c in r.prompt]) if isinstance(r.prompt, str) else r
                for r in rows
            ]
        )


@pytest.mark.parametrize("context", ["segment", "both"])
def test_verification_prompts_are_read_before_the_answer(context: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    adapter, rows = AskedToy(), labelled(4)
    build_it = SegmentRewardModel.build
    model = build_it(
        adapter, "toy:0", toy_rows(1)[0], TYPES, context=context, answer="a", template="q {segment}"
    )  # type: ignore[arg-type]
    randomise(model)
    together, alone = model.predict([*rows, *rows]), model.predict(rows, batch_size=1)
    for kind, value in alone.items():
        assert torch.allclose(together[kind], torch.cat([value, value]), atol=1e-6)
    segment = rows[0].segments[0]
    asked = replace(rows[0], prompt=f"q {segment.text.strip()}", completion="a", steps=None, segments=())
    hidden = adapter.logp(model.trunks["shared"], adapter.collate([asked]), hidden=True).hidden
    assert hidden is not None
    features = model._features("shared", rows[:1], None, keep=False)
    assert torch.allclose(features[0, -hidden.shape[-1] :], hidden[0, 0], atol=1e-6)
    model.save(tmp_path)
    again = SegmentRewardModel.load(adapter, tmp_path).predict(rows)
    assert all(torch.allclose(again[kind], alone[kind], atol=1e-6) for kind in TYPES)


def test_a_frozen_trunk_keeps_features_and_stays_as_it_was() -> None:
    model, rows = build(train_trunk=False), labelled()
    before = {name: value.clone() for name, value in model.trunks.state_dict().items()}
    calls: list[int] = []
    model.adapter = CountingToy(calls)
    first, _ = model.loss(rows)
    first.backward()
    second, _ = model.loss(list(reversed(rows)))
    assert len(calls) == 1
    assert float(second.detach()) == pytest.approx(float(first.detach()), abs=1e-5)
    assert all(parameter.grad is None for parameter in model.trunks.parameters())
    assert any(parameter.grad is not None for parameter in model.heads.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.trunks.state_dict().items())
    model.predict(rows)
    assert len(calls) == 2


class CountingToy(ToyAdapter):
    """Counts the batches it encodes."""

    def __init__(self, calls: list[int]) -> None:
        self.calls = calls

    def collate(self, rows: Sequence[Row]) -> Batch:
        """Encode and count."""
        self.calls.append(len(rows))
        return super().collate(rows)


def test_surprise_reads_the_states_around_unlikely_steps() -> None:
    hidden = torch.arange(5.0)[:, None].expand(5, 2)
    logp, entropy = torch.tensor([-1.0, 0.0, -3.0, -9.0]), torch.tensor([0.1, 0.2, 0.3, 0.4])
    features = read_segments("surprise", [(0, 3), (3, 4)], hidden, logp, entropy)
    assert features.shape == (2, 3 * 2 + 5)
    assert features[0, 0] == pytest.approx((1 * 0 + 3 * 2) / 4, abs=2e-3)
    assert features[0, 2] == pytest.approx((1 * 1 + 3 * 3) / 4, abs=2e-3)
    assert features[0, 4] == 3.0 and features[1, 4] == 4.0
    expected = torch.tensor([-4.0, -3.0, -4.0 / 3, 0.6, 0.3]) / 3
    assert torch.allclose(features[0, 6:], expected, atol=1e-5)


def test_training_lowers_the_loss_and_unlabelled_types_are_left_out() -> None:
    model, rows = build(), labelled()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    first = None
    for _ in range(30):
        loss, metrics = model.loss(rows)
        first = float(loss.detach()) if first is None else first
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.7 * float(first or 0)
    assert set(metrics) == {"loss/object", "accuracy/object", "loss/attribute", "accuracy/attribute"}
    only = [replace(r, segments=tuple(replace(s, labels={"object": 1}) for s in r.segments)) for r in rows]
    _, metrics = model.loss(only)
    assert set(metrics) == {"loss/object", "accuracy/object"}
    assert segment_labels(only, "attribute").eq(IGNORE).all()
    empty = [replace(r, segments=tuple(replace(s, labels={}) for s in r.segments)) for r in rows]
    assert float(model.loss(empty)[0].detach()) == 0.0


@pytest.mark.parametrize("shared", [True, False])
def test_save_and_load(tmp_path: Path, shared: bool) -> None:
    model, rows = randomise(build(shared_trunk=shared, head="mlp")), labelled()
    model.save(tmp_path / "rm")
    again = SegmentRewardModel.load(ADAPTER, tmp_path / "rm")
    assert again.shared_trunk == shared and again.options == model.options
    for kind, value in model.predict(rows).items():
        assert torch.allclose(again.predict(rows)[kind], value, atol=1e-6)
    with pytest.raises(UserError, match=r"reward_model\.json"):
        SegmentRewardModel.load(ADAPTER, tmp_path)


def test_scores() -> None:
    p = torch.tensor([[0.7, 0.1, 0.2], [0.2, 0.6, 0.2], [0.1, 0.3, 0.6]])
    assert scores_from_probabilities(p, "class") == [-1.0, None, 1.0]
    assert scores_from_probabilities(p, "expected") == [pytest.approx(-0.5), None, pytest.approx(0.5)]


def test_not_applicable_segments_are_paid_exactly_nothing() -> None:
    batch, model = answered(), randomise(build())
    for mode in ("class", "expected"):
        reward = FGAIFReward(model, Shaping(weights=dict.fromkeys(TYPES, 1.0)), mode)  # type: ignore[arg-type]
        value = reward(batch)
        classes = {kind: p.argmax(-1) for kind, p in model.predict(batch.rows).items()}
        position = 0
        for b, row in enumerate(batch.rows):
            for segment in row.segments:
                for kind in TYPES:
                    if classes[kind][position] == 1:
                        assert value.parts[kind][b, segment.end - 1] == 0.0
                position += 1
        total = sum(part.sum() for part in value.parts.values())
        assert float(value.per_step.sum()) == pytest.approx(float(total), abs=1e-4)


def test_reward_model_and_oracle_share_their_shaping() -> None:
    """With predictions that equal the oracle's labels, the two rewards are the same tensor."""
    batch = answered()
    shaping = Shaping(weights=dict.fromkeys(TYPES, 1.0), repeat_penalty=0.3)
    oracle = OracleReward(ToyJudge(), ToyExtractor(), shaping)  # type: ignore[arg-type]

    class Perfect(SegmentRewardModel):
        def predict(self, rows: list[Row], batch_size: int = 64) -> dict[str, torch.Tensor]:  # type: ignore[override]
            flat = [s for row in oracle.scores(rows) for s in row]
            index = {kind: torch.tensor([int(s[kind] or 0) + 1 for s in flat]) for kind in TYPES}
            return {kind: torch.nn.functional.one_hot(value, 3).float() for kind, value in index.items()}

    model = Perfect(ADAPTER, {"shared": ADAPTER.load("toy:0")}, TYPES, hidden_size=4)
    learned = FGAIFReward(model, shaping, "expected", ToyExtractor())
    assert oracle(batch).per_step.any()
    assert torch.equal(learned(batch).per_step, oracle(batch).per_step)
    with pytest.raises(UserError, match="no reward model"):
        FGAIFReward(model, Shaping())


def test_quality_counts_both_views() -> None:
    rows = labelled()
    labels = segment_labels(rows, "object")
    perfect = torch.nn.functional.one_hot(labels + 1, 3).float()
    report = quality({"object": perfect, "attribute": torch.full((len(labels), 3), 1 / 3)}, rows)
    assert report["object"]["applicable"]["auc"] == 1.0 and report["object"]["all"]["accuracy"] == 1.0
    assert report["object"]["all"]["n"] == len(labels)
    assert report["object"]["applicable"]["n"] == int((labels != 0).sum())
    assert report["attribute"]["applicable"]["auc"] is None
    assert report["object"]["applicable"]["majority"] < 1.0
    means = label_means(rows, ["object"])
    assert means["object"] == pytest.approx(float(labels[labels != 0].float().mean()))


def test_bad_arguments_are_named() -> None:
    trunk = ADAPTER.load("toy:0")
    with pytest.raises(UserError, match="trunks"):
        SegmentRewardModel(ADAPTER, {"object": trunk}, TYPES, hidden_size=4)
    with pytest.raises(UserError, match="segment"):
        SegmentRewardModel(ADAPTER, {"shared": trunk}, TYPES, hidden_size=4, context="segmnt")  # type: ignore[arg-type]
    rows = [
        replace(r, segments=tuple(replace(s, labels={"object": 2}) for s in r.segments)) for r in labelled(2)
    ]
    with pytest.raises(UserError, match="label 2"):
        build().loss(rows)
