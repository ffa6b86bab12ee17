"""Rewards of music: true pieces earn more than wrong or damaged ones, on the last step, inside their ranges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mmalign import registry
from mmalign.data.audio import Clip
from mmalign.errors import UserError
from mmalign.rewards.tunes import MusicR, TunesAdherence, TunesQuality, TunesTruth
from mmalign.types import Rollout, Row
from mmalign.worlds import tunes
from mmalign.worlds.tunes.codec import BandCodec
from mmalign.worlds.tunes.model import BASE
from mmalign.worlds.tunes.quality import QUALITY, Quality, damaged
from mmalign.worlds.tunes.towers import TOWERS, contrastive_loss
from mmalign.worlds.tunes.users import TunesUsers, mean_taste

STEPS = 5


def rollout(rows: Sequence[Row]) -> Rollout:
    mask = torch.ones(len(rows), STEPS, dtype=torch.bool)
    mask[0, -1] = False
    finished = torch.ones(len(rows), dtype=torch.bool)
    return Rollout(tuple(rows), torch.zeros(len(rows), STEPS), mask, finished, torch.arange(len(rows)))


@pytest.fixture(scope="module")
def pairs() -> list[Row]:
    return tunes.rows("validation", 40, 9, "preference")


@pytest.fixture(scope="module")
def true(pairs: list[Row]) -> Rollout:
    return rollout([replace(row, completion=row.chosen) for row in pairs])


@pytest.fixture(scope="module")
def false(pairs: list[Row]) -> Rollout:
    return rollout([replace(row, completion=row.rejected) for row in pairs])


@pytest.mark.parametrize("kind", [TunesAdherence, TunesTruth])
def test_a_true_piece_earns_more_than_one_that_goes_astray(
    kind: type[TunesAdherence] | type[TunesTruth], true: Rollout, false: Rollout
) -> None:
    reward = kind()
    good, bad = (reward(r).per_step.sum(1) for r in (true, false))
    assert (good > bad).float().mean() > 0.85
    assert 0 <= float(min(good.min(), bad.min())) and float(max(good.max(), bad.max())) <= 1


def test_values_stand_on_the_last_real_step(true: Rollout) -> None:
    for name in ("tunes-adherence", "tunes-quality", "tunes-truth", "tunes-r"):
        paid = registry.load("rewards", name)()(true)
        assert paid.per_step.shape == (len(true), STEPS)
        assert (paid.per_step[0, :3] == 0).all() and paid.per_step[0, 3] > 0 and paid.per_step[0, 4] == 0
        assert (paid.per_step[1:, :4] == 0).all()


def test_the_oracle_pays_the_share_of_mentions_that_are_heard(pairs: list[Row]) -> None:
    row = pairs[0]
    heard = rollout(
        [replace(row, completion=row.chosen, prompt="music , " + word) for word in ("loud", "soft")]
    )
    found = TunesTruth()(heard).per_step.sum(1).tolist()
    level = row.meta["tune"]["dynamics"]
    assert found == [float(level == "loud"), float(level == "soft")]
    with pytest.raises(UserError, match="mentions no attribute"):
        TunesTruth()(rollout([replace(row, completion=row.chosen, prompt="hello")]))


def test_quality_is_clipped_to_its_labels_and_falls_with_damage(true: Rollout) -> None:
    codec = BandCodec.load(BASE)
    codes = codec.encode_clips([row.completion for row in true.rows])
    bands, severity = damaged(codes, codec, torch.Generator().manual_seed(1))
    model = Quality.load()
    with torch.no_grad():
        found = model.score(bands)
        loud = model.score(bands * 0 + 30)
    assert found[severity < 0.1].mean() > found[severity > 0.6].mean() + 1
    assert 1 <= float(loud.min()) and float(loud.max()) <= 5
    paid = TunesQuality()(true)
    assert torch.allclose(paid.notes["quality/mos"], 1 + 4 * paid.per_step.sum(1))
    assert paid.notes["quality/mos"].mean() > 4


def test_damage_of_no_severity_changes_nothing() -> None:
    codec = BandCodec.load(BASE)
    codes = torch.randint(256, (64, 6, 25), generator=torch.Generator().manual_seed(0))
    bands, severity = damaged(codes, codec, torch.Generator().manual_seed(2))
    whole = codec.bands(codes)
    clean = severity == 0
    floor = float(np.log(1e-3))
    assert 0.05 < clean.float().mean() < 0.4
    assert torch.allclose(bands[clean], whole[clean].clamp(min=floor), atol=1e-4)
    assert (bands[severity > 0.3] - whole[severity > 0.3].clamp(min=floor)).abs().mean() > 0.05


def test_r_is_the_weighted_sum_of_its_parts(true: Rollout) -> None:
    paid = MusicR(adherence=2.0, quality=0.5)(true)
    expected = 2 * TunesAdherence()(true).per_step + 0.5 * TunesQuality()(true).per_step
    assert torch.allclose(paid.per_step, expected, atol=1e-6)


def test_the_contrastive_loss_is_the_mean_of_both_directions() -> None:
    stream = torch.Generator().manual_seed(0)
    a, b = (torch.nn.functional.normalize(torch.randn((4, 3), generator=stream), dim=1) for _ in range(2))
    table = (5 * a @ b.T).double().numpy()
    rows = -np.log(np.exp(table).diagonal() / np.exp(table).sum(1))
    columns = -np.log(np.exp(table).diagonal() / np.exp(table).sum(0))
    found = contrastive_loss(a, b, torch.tensor(5.0))
    assert float(found) == pytest.approx((rows.mean() + columns.mean()) / 2, rel=1e-5)


def test_users_prefer_the_brighter_clearer_piece_and_both_orders_agree(pairs: list[Row]) -> None:
    users = TunesUsers(random=0.1)
    agree = 0
    for row in pairs:
        chance = users.compare(row, row.chosen, row.rejected)
        assert chance + users.compare(row, row.rejected, row.chosen) == pytest.approx(1.0)
        one, other = mean_taste([row.chosen, row.rejected])
        agree += (chance > 0.5) == (one > other)
    assert agree / len(pairs) > 0.75  # users differ around the mean taste
    assert users.compare(pairs[0], pairs[0].chosen, pairs[0].chosen) == 0.5
    assert {TunesUsers(random=0.0).compare(row, row.chosen, row.rejected) for row in pairs} <= {0.0, 1.0}


def test_choices_are_preference_rows(pairs: list[Row]) -> None:
    answers = [
        replace(row, id=f"{row.id}#{k}", completion=clip, chosen=None, rejected=None)
        for row in pairs[:6]
        for k, clip in enumerate((row.chosen, row.rejected))
    ]
    users = TunesUsers(seed=3)
    rows = users.choose(answers)
    assert len(rows) == 6 and all(row.completion is None for row in rows)
    for row, pair in zip(rows, pairs, strict=False):
        assert {id(row.chosen), id(row.rejected)} == {id(pair.chosen), id(pair.rejected)}
    assert [r.chosen is p.chosen for r, p in zip(rows, pairs, strict=False)] == [
        r.chosen is p.chosen for r, p in zip(users.choose(answers), pairs, strict=False)
    ]
    with pytest.raises(UserError, match="different prompts"):
        users.choose([answers[0], answers[2]])
    with pytest.raises(UserError, match="two per prompt"):
        users.choose(answers[:1])
    with pytest.raises(UserError, match="random"):
        TunesUsers(random=2.0)


def test_answers_that_are_no_music_are_refused(pairs: list[Row]) -> None:
    with pytest.raises(UserError, match="no such sound file"):
        TunesAdherence()(rollout([replace(pairs[0], completion="la la la")]))
    with pytest.raises(UserError, match="must be a caption"):
        TunesAdherence()(rollout([replace(pairs[0], prompt=[1], completion=pairs[0].chosen)]))


def test_a_short_or_resampled_answer_is_still_heard(pairs: list[Row]) -> None:
    clip = pairs[0].chosen
    short = Clip(clip.samples[:8000], clip.rate)
    coded = SimpleNamespace(codec=BandCodec.load(BASE), codes=BandCodec.load(BASE).encode(clip.samples))
    found = TunesTruth()(rollout([replace(pairs[0], completion=c) for c in (clip, short, coded)]))
    assert torch.isfinite(found.per_step).all()
    assert found.per_step[2].sum() >= 0.5


def test_weights_are_small_and_missing_ones_are_named() -> None:
    assert TOWERS.stat().st_size + QUALITY.stat().st_size < 2_000_000
    with pytest.raises(UserError, match="train_musician"):
        TunesAdherence(weights="nowhere.safetensors")
