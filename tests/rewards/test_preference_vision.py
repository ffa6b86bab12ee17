"""Reward models on pictures: candidates that are pictures, and facts that the shipped reader reads."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from mmalign.modalities.vision import VisionAdapter
from mmalign.rewards.factual import Facts
from mmalign.rewards.preference import PreferenceRewardModel, Ranked, View, quality, ranked_from_rows
from mmalign.rewards.preference.options import Options
from mmalign.worlds import scenes
from mmalign.worlds.scenes.ship import file_sha256


@pytest.fixture(scope="module")
def adapter() -> VisionAdapter:
    return VisionAdapter()


def two_pictures(n: int) -> list[Ranked]:
    """One prompt and one true caption, with its own picture or the next row's: which is better shows in the medium only."""
    rows = scenes.rows("train", n + 1, 5, "caption_clean")
    made = []
    for row, other in pairwise(rows):
        bare = replace(row, media=(), chosen=row.completion, rejected=row.completion, completion=None)
        made.append(replace(bare, chosen_media=row.media, rejected_media=other.media))
    return ranked_from_rows(made)


def test_two_pictures_for_one_prompt_are_ranked(adapter: VisionAdapter) -> None:
    groups = two_pictures(36)
    assert groups[0].rows[0].media != groups[0].rows[1].media
    assert groups[0].rows[0].completion == groups[0].rows[1].completion
    options = Options(pool="mean", read="surprise", train_trunk=False)
    model = PreferenceRewardModel.build(adapter, str(scenes.BASES[0]), groups[0].rows[0], options)
    assert quality(model, groups[24:])["preference"]["accuracy"] == 0.5
    optimizer = torch.optim.AdamW(model.heads.parameters(), lr=1e-2)
    for _ in range(25):
        loss, _ = model.loss(groups[:24])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert quality(model, groups[24:])["preference"]["accuracy"] > 0.8


@torch.no_grad()
def test_the_reader_believes_its_own_facts_and_not_those_of_another_picture(adapter: VisionAdapter) -> None:
    rows = scenes.rows("validation", 24, 11, "caption_clean")
    model = adapter.load(str(scenes.READERS["reader"]))
    other = Facts(show="other", pool=Facts().pooled(rows))
    found = {}
    for name, facts in (("own", Facts()), ("none", None), ("other", other)):
        scored = adapter.logp(model, adapter.collate([View(adapter, 0.0, facts)(row) for row in rows]))
        found[name] = float(scored.values[scored.mask].mean())
    assert found["own"] > found["none"] + 0.2 and found["other"] < found["none"] - 0.2


def test_the_reader_is_what_its_record_says() -> None:
    folder = scenes.READERS["reader"]
    record = json.loads((folder / "README.json").read_text())
    assert file_sha256(folder / "model.safetensors") == record["weights_sha256"]
    nll = record["heldout_nll"]
    assert (
        nll["facts, scale 0"]
        < nll["no facts, scale 1"]
        < nll["no facts, scale 0.125"]
        < nll["no facts, scale 0"]
    )
