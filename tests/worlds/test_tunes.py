"""The tunes world: who may see what, what captions say, how pieces sound, and that rows never change."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from mmalign.errors import UserError
from mmalign.worlds import tunes
from mmalign.worlds.tunes.captions import CONFUSED, MAX_WORDS, WORDS, CaptionNoise
from mmalign.worlds.tunes.synth import NOTES_PER_SECOND, RATE, SAMPLES, melody, onsets
from mmalign.worlds.tunes.tune import COMBINATIONS, Tune, tune_at


def piece(**changes: str | float) -> Tune:
    plain = {
        "id": 5,
        "timbre": "reed",
        "tempo": "medium",
        "mode": "major",
        "register": "middle",
        "dynamics": "loud",
        "contour": "rising",
        "looseness": 0.0,
        "tilt": 0.0,
    }
    return Tune(**{**plain, **changes})  # type: ignore[arg-type]


def test_combinations_of_one_split_are_in_no_other() -> None:
    parts = [set(tunes.combinations_of(split)) for split in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [610, 80, 120]
    assert set.union(*parts) == set(COMBINATIONS) == set(tunes.combinations_of("every"))
    assert sum(map(len, parts)) == len(COMBINATIONS)
    for split in ("train", "validation", "test"):
        allowed = set(tunes.combinations_of(split))
        assert all(tuple(tune_at(split, 0, i).attributes.values()) in allowed for i in range(200))


def test_a_split_with_a_typing_error_is_refused() -> None:
    with pytest.raises(UserError, match="did you mean|test"):
        tunes.rows("tests", 1)
    with pytest.raises(UserError, match="preference"):
        tunes.rows("test", 1, kind="preferences")


def test_no_word_says_two_things() -> None:
    words = [word for values in WORDS.values() for both in values.values() for word in both]
    assert len(words) == len(set(words)) == 2 * sum(map(len, tunes.ATTRIBUTES.values()))


def test_captions_say_what_was_asked_in_several_ways() -> None:
    rng = np.random.default_rng(0)
    captions, counts = set(), set()
    for i in range(600):
        asked = tunes.asked_of(tune_at("train", 0, i), rng)
        text = tunes.phrase(asked, rng)
        assert tunes.read_caption(text) == asked
        assert len(text.split()) <= MAX_WORDS
        captions.add(" ".join(text.split()[:2]))
        counts.add(len(asked))
    assert counts == {3, 4, 5, 6}
    assert len({caption.split()[0] for caption in captions}) == 3  # a, the, music


def test_noise_redraws_mentions_and_confuses_some_values() -> None:
    tune = piece(tempo="medium", dynamics="loud")
    rng = np.random.default_rng(1)
    clean = [tunes.asked_of(tune, rng) for _ in range(50)]
    assert all(value == tune.attributes[name] for asked in clean for name, value in asked.items())
    noisy = [tunes.asked_of(tune, rng, CaptionNoise(habit=0.0, random=0.5)) for _ in range(400)]
    wrong = [value != tune.attributes[name] for asked in noisy for name, value in asked.items()]
    assert 0.25 < np.mean(wrong) < 0.4  # half are redrawn, a third of those or so hit the truth again
    careless = [tunes.asked_of(tune, rng, CaptionNoise(habit=0.4, random=0.0)) for _ in range(400)]
    said = [asked["tempo"] for asked in careless if "tempo" in asked]
    assert set(said) == {"medium", "fast"} and 0.3 < np.mean([s == "fast" for s in said]) < 0.5
    assert {asked["dynamics"] for asked in careless if "dynamics" in asked} == {"loud"}


def test_confusions_are_mutual_and_within_an_attribute() -> None:
    for value, other in CONFUSED.items():
        assert CONFUSED[other] == value != other
        assert any(value in values and other in values for values in tunes.ATTRIBUTES.values())


def test_only_caption_rows_are_careless() -> None:
    def wrong(kind: str) -> int:
        pairs = [(Tune.from_dict(r.meta["tune"]), r.meta["asked"]) for r in tunes.rows("train", 30, 0, kind)]
        return sum(tune.attributes[name] != value for tune, asked in pairs for name, value in asked.items())

    assert wrong("caption") > 5 and wrong("prompt") == wrong("caption_clean") == wrong("preference") == 0


def test_melodies_follow_their_contour_and_scale() -> None:
    up, down, arch = (melody(piece(contour=c)) for c in ("rising", "falling", "arching"))
    assert up[-1] - up[0] >= 8 and down[0] - down[-1] >= 8
    assert max(arch[2:6]) - max(arch[0], arch[-1]) >= 6
    assert len(up) == 8 and len(melody(piece(tempo="fast"))) == 16
    minor = {note for i in range(20) for note in melody(piece(mode="minor", id=i))}
    major = {note for i in range(20) for note in melody(piece(mode="major", id=i))}
    assert 3 in minor - major and 4 in major - minor


def test_loose_pieces_leave_the_beat_and_tight_ones_do_not() -> None:
    beat = 1 / NOTES_PER_SECOND["medium"]
    tight = np.array(onsets(piece(looseness=0.0)))
    loose = np.array(onsets(piece(looseness=1.0)))
    assert tight == pytest.approx(np.arange(8) * beat)
    assert np.abs(loose - tight).max() > 0.1 * beat and np.all(np.diff(loose) > 0)


def test_pieces_are_two_seconds_audible_and_never_clipped() -> None:
    for i in range(30):
        clip = tunes.render(tune_at("train", 1, i))
        assert clip.rate == RATE and len(clip.samples) == SAMPLES
        assert 0.005 < np.abs(clip.samples).max() < 1.0


def test_dynamics_are_heard_in_the_level() -> None:
    def levels(dynamics: str) -> tuple[float, float]:
        samples = tunes.render(piece(dynamics=dynamics)).samples
        half = len(samples) // 2
        return tuple(float(np.sqrt((part**2).mean())) for part in (samples[:half], samples[half:]))  # type: ignore[return-value]

    soft, loud, growing = levels("soft"), levels("loud"), levels("growing")
    assert min(loud) > 8 * max(soft)
    assert growing[1] > 2 * growing[0]


def test_rows_depend_on_their_place_alone() -> None:
    few, many = (tunes.rows("test", n, 4, "caption_clean") for n in (3, 5))
    for a, b in zip(few, many, strict=False):
        assert (a.id, a.prompt, a.meta) == (b.id, b.prompt, b.meta)
        assert np.array_equal(a.completion.samples, b.completion.samples)
    assert [row.prompt for row in tunes.rows("test", 3, 4, "prompt")] == [row.prompt for row in few]
    assert tunes.rows("test", 3, 4, "prompt")[0].completion is None
    assert [row.prompt for row in tunes.rows("test", 3, 5, "prompt")] != [row.prompt for row in few]


def test_the_chosen_piece_is_true_and_the_rejected_one_is_not() -> None:
    for row in tunes.rows("train", 20, kind="preference"):
        tune = Tune.from_dict(row.meta["tune"])
        assert all(tune.attributes[name] == value for name, value in row.meta["asked"].items())
        assert np.array_equal(row.chosen.samples, tunes.render(tune).samples)
        assert not np.array_equal(row.chosen.samples, row.rejected.samples)


def test_truth_survives_a_round_trip_and_no_row_has_changed() -> None:
    row = tunes.rows("validation", 1, seed=0)[0]
    tune = Tune.from_dict(row.meta["tune"])
    assert tune.to_dict() == row.meta["tune"]
    said = "\n".join(f"{r.id} {r.prompt}" for r in tunes.rows("test", 40, 0, "prompt"))
    assert hashlib.sha256(said.encode()).hexdigest()[:16] == "3c32ccab10e734d3"
