"""Stages ``dpo`` and ``kto`` on the toy modality: they learn, resume exactly, and say what is wrong with the data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmalign.config.load import load_config
from mmalign.data.pairs import Pair, labelled_answers, pair_of, pairs_from_feedback, with_random_labels
from mmalign.engine.pairs import pair_objective
from mmalign.engine.reference import Reference, cached_reference
from mmalign.errors import UserError
from mmalign.objectives.preference import PAIR_LOSSES, PairSettings
from mmalign.pipeline.run import open_run, run_recipe
from mmalign.rng import generator
from mmalign.testing.policies import ToyAdapter, toy_rows
from mmalign.types import Row, Segment

BASE = ["--evaluate.tasks", "[toy]", "--evaluate.n", "16", "--evaluate.max_new_tokens", "8"]
DPO = ["--dpo.max_steps", "30", "--dpo.learning_rate", "1e-2", "--dpo.save_steps", "10"]


def run(folder: Path, stages: str, *flags: str) -> Path:
    return run_recipe(load_config("toy", ["--output_dir", str(folder), "--stages", stages, *BASE, *flags]))


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("reference", ["copy", "cache"])
def test_dpo_learns_which_answer_is_better(tmp_path: Path, reference: str) -> None:
    folder = run(tmp_path / "run", "[dpo,evaluate]", *DPO, "--dpo.reference", reference)
    log = metrics(folder)
    assert log[0]["rewards/margins"] == pytest.approx(0.0, abs=1e-6)
    assert log[0]["loss"] == pytest.approx(0.693147, abs=1e-5)
    assert log[-1]["rewards/accuracies"] > 0.9 and log[-1]["loss"] < 0.5
    quality = json.loads((folder / "stages/dpo/quality.json").read_text())
    assert quality["n"] == 64 and quality["ci"][0] > 0.6
    assert (folder / "evals/dpo/toy@greedy/results.json").is_file()


def test_cache_and_copy_give_the_same_run(tmp_path: Path) -> None:
    logs = [metrics(run(tmp_path / how, "[dpo]", *DPO, "--dpo.reference", how)) for how in ("copy", "cache")]
    for one, other in zip(*logs, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-6)


@pytest.mark.parametrize(("steps", "how"), [("60", "cache"), ("2", "copy")])
def test_auto_caches_what_is_read_at_least_once(tmp_path: Path, steps: str, how: str) -> None:
    folder = run(tmp_path / "run", "[dpo]", *DPO, "--dpo.reference", "auto", "--dpo.max_steps", steps)
    assert json.loads((folder / "stages/dpo/done.json").read_text())["reference"] == how


def test_a_run_cut_short_goes_on_to_the_same_end(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", "[dpo]", *DPO, "--dpo.reference", "cache")
    cut = run(tmp_path / "cut", "[dpo]", *DPO, "--dpo.reference", "cache")
    stage = cut / "stages" / "dpo"
    (stage / "done.json").unlink()
    for folder in sorted(stage.glob("checkpoint-*")):
        if folder.name == "checkpoint-30":
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()
    run(tmp_path / "cut", "[dpo]", *DPO, "--dpo.reference", "cache")
    assert (cut / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    for file in (whole / "stages/dpo/final").glob("*.safetensors"):
        ours, theirs = load_file(file), load_file(stage / "final" / file.name)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_kto_learns_from_single_answers(tmp_path: Path) -> None:
    flags = ["--kto.max_steps", "40", "--kto.learning_rate", "1e-2"]
    folder = run(tmp_path / "run", "[kto]", *flags)
    log = metrics(folder)
    assert log[-1]["rewards/chosen"] > log[-1]["rewards/rejected"] + 0.3
    assert all(record["kl"] >= 0 for record in log)


def test_pairs_from_feedback(tmp_path: Path) -> None:
    flags = ["--sft.max_steps", "5", *DPO, "--dpo.pairs", "feedback"]
    folder = run(tmp_path / "run", "[sft,feedback,dpo]", *flags)
    assert json.loads((folder / "stages/dpo/done.json").read_text())["items"] > 20
    assert metrics(folder)[-1]["rewards/margins"] > 0


@pytest.mark.parametrize("name", sorted(PAIR_LOSSES))
def test_every_loss_trains(name: str) -> None:
    adapter = ToyAdapter()
    model = adapter.load("toy:1")
    settings = PairSettings((name,), label_smoothing=0.1 if name == "exo_pair" else 0.0)
    reference = Reference(adapter, model) if PAIR_LOSSES[name].reference else None
    loss_fn = pair_objective(adapter, model, reference, settings)
    pairs = [pair_of(row) for row in toy_rows(8)]
    loss = loss_fn(pairs, generator(0, "x"))
    loss.value.backward()
    assert loss.weight == 8.0 and any(
        p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters()
    )


def test_micro_batches_equal_the_batch() -> None:
    adapter = ToyAdapter()
    model = adapter.load("toy:1")
    loss_fn = pair_objective(adapter, model, Reference(adapter, adapter.load("toy:2")), PairSettings())
    pairs = [pair_of(row) for row in toy_rows(8)]
    whole = loss_fn(pairs, generator(0, "x")).value
    parts = [loss_fn(pairs[k : k + 2], generator(0, "x")).value * 2 for k in range(0, 8, 2)]
    assert whole.item() == pytest.approx(sum(p.item() for p in parts) / 8, abs=1e-6)


def test_media_may_sit_on_either_candidate() -> None:
    row = Row(
        "a", "which?", media=("m",), chosen="x", rejected="x", chosen_media=("c",), rejected_media=("r",)
    )
    pair = pair_of(row)
    assert pair.chosen.media == ("m", "c") and pair.rejected.media == ("m", "r")


def test_what_is_wrong_with_a_pair_is_said() -> None:
    with pytest.raises(UserError, match="row a: has no 'rejected' answer"):
        pair_of(Row("a", "?", chosen="x"))
    with pytest.raises(UserError, match="row a: has an empty 'chosen' answer"):
        pair_of(Row("a", "?", chosen=" ", rejected="x"))
    with pytest.raises(UserError, match="are the same answer"):
        pair_of(Row("a", "?", chosen="x", rejected="x"))
    with pytest.raises(UserError, match="got 'maybe'"):
        labelled_answers([Row("a", "?", completion="x", meta={"label": "maybe"})])


def test_feedback_pairs_weigh_right_against_wrong() -> None:
    def answer(k: int, labels: list[int]) -> Row:
        return Row(
            f"p#{k}", "?", completion=str(k), segments=tuple(Segment(0, 1, labels={"o": v}) for v in labels)
        )

    silent, wordy, true = answer(0, [1]), answer(1, [1, 1, -1, -1]), answer(2, [1, 1, 1])
    assert pairs_from_feedback([silent, wordy, true]) == [Pair(true, wordy)]
    with pytest.raises(UserError, match="no pair of different worth"):
        pairs_from_feedback([silent])


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--dpo.loss_type", "sigmod"], 'did you mean "sigmoid"'),
        (["--dpo.loss_type", "exo_pair"], "label_smoothing > 0"),
        (["--dpo.loss_type", "[sigmoid,sft]", "--dpo.loss_weights", "[1.0]"], "1 numbers for 2"),
        (["--kto.reference", "cache"], "nobody can compute beforehand"),
        (["--kto.per_device_train_batch_size", "1"], "needs at least 2"),
        (["--dpo.loss_type", "hinge", "--dpo.label_smoothing", "0.1"], "hinge does not read it"),
        (["--dpo.loss_type", "aot", "--dpo.f_divergence_type", "forward_kl"], "aot does not read it"),
    ],
)
def test_bad_settings_get_one_sentence(tmp_path: Path, flags: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        run(tmp_path / "run", "[dpo]", *flags)


def test_cached_reference_needs_no_second_model(tmp_path: Path) -> None:
    adapter = ToyAdapter()
    model = adapter.load("toy:1")
    pair = pair_of(toy_rows(1)[0])
    cache = cached_reference(tmp_path, adapter, model)
    cache.precompute([pair.chosen, pair.rejected], 2)
    loss = pair_objective(adapter, model, cache, PairSettings())([pair], generator(0, "x"))
    assert loss.value.item() == pytest.approx(0.693147, abs=1e-5)


def test_every_row_of_a_file_is_used(tmp_path: Path) -> None:
    """``data.n_train`` is how many rows a world gives; it never cuts a user's own file short."""
    file = tmp_path / "pairs.jsonl"
    record = {"prompt": [8], "media": [[0.1, 1.0, 0.0, 0.0]], "chosen": [5, 1], "rejected": [6, 1]}
    file.write_text("".join(json.dumps({**record, "id": str(k)}) + "\n" for k in range(9)))
    cfg = load_config(
        "toy", ["--output_dir", str(tmp_path / "run"), "--data.train", str(file), "--data.n_train", "4"]
    )
    ctx = open_run(cfg)
    assert len(ctx.training_rows("preference")) == 9
    assert len(ctx.training_rows("preference", 5)) == 5


def test_random_labels_turn_half_of_the_pairs_and_teach_nothing(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", "[dpo]", *DPO, "--dpo.shuffle_labels", "true")
    quality = json.loads((folder / "stages/dpo/quality.json").read_text())
    assert quality["ci"][0] < 0.5, "held-out pairs keep their labels"
    pairs = [pair_of(row) for row in toy_rows(400)]
    turned = with_random_labels(pairs, 3)
    swapped = [new.chosen is old.rejected for new, old in zip(turned, pairs, strict=True)]
    assert 150 < sum(swapped) < 250
    assert all(new.chosen is old.chosen for new, old, s in zip(turned, pairs, swapped, strict=True) if not s)
    assert [pair.chosen for pair in turned] == [pair.chosen for pair in with_random_labels(pairs, 3)]
    with pytest.raises(UserError, match="single answers"):
        run(tmp_path / "kto", "[kto]", "--kto.shuffle_labels", "true")
