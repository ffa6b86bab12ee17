"""The sweep world: physics, endings, pictures, experts and rows."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from mmalign.errors import UserError
from mmalign.worlds import sweep
from mmalign.worlds.sweep.single import DEMOS

STARTS = [sweep.Start(task, body, 7) for task in sweep.TASKS for body in sweep.EMBODIMENTS]


def rolled(
    starts: list[sweep.Start], seed: int = 0, steps: int = 25
) -> tuple[sweep.SweepBatch, list[sweep.Step]]:
    """A batch pushed about at random; the actions of a start are its own."""
    env = sweep.SweepBatch(starts)
    env.reset()
    streams = [np.random.default_rng([seed, start.seed, len(str(start))]) for start in starts]
    return env, [env.step(np.stack([rng.uniform(-1, 1, 3) for rng in streams])) for _ in range(steps)]


def test_a_batch_is_its_episodes_bit_for_bit() -> None:
    together, steps = rolled(STARTS)
    for k, start in enumerate(STARTS):
        alone, single = rolled([start])
        for a, b in zip(steps, single, strict=True):
            assert np.array_equal(a.observation[k], b.observation[0])
            assert a.reward[k] == b.reward[0] and np.array_equal(a.potential[k], b.potential[0])
        assert np.array_equal(together.frames()[k], alone.frames()[0])


def test_golden_trajectory() -> None:
    """Where everything stands after 25 steps; a change here is a change of the world, and of every number on it."""
    env, steps = rolled([sweep.Start("sweep", "medium", 1)])
    found = [*env.states.pusher[0], *env.states.blocks[0].flatten(), *steps[-1].potential[0]]
    assert np.allclose(found, GOLDEN, atol=1e-9), [round(float(x), 10) for x in found]


def test_pixels_are_the_same_bytes() -> None:
    env, _ = rolled(STARTS)
    assert (
        hashlib.sha256(env.frames().tobytes()).hexdigest()
        == hashlib.sha256(env.frames().tobytes()).hexdigest()
    )
    assert hashlib.sha256(env.frames().tobytes()).hexdigest() == PIXELS
    assert env.frames().shape == (len(STARTS), 64, 64, 3)


def test_a_block_is_pushed_and_not_passed_through() -> None:
    """A stick that rises below a block carries it into the zone; raised it passes over it."""
    start = sweep.Start("sweep", "long", 3)
    for lowered in (1.0, -1.0):
        env = sweep.SweepBatch([start])
        env.reset()
        env.states.pusher[0] = (env.states.blocks[0, 0, 0], -0.9)
        before = env.states.blocks.copy()
        for _ in range(25):
            env.step(np.array([[0.0, 1.0, lowered]]))
        moved = env.states.blocks[0, 0, 1] - before[0, 0, 1]
        assert (moved > 0.3) if lowered > 0 else (moved == 0.0)
        gaps = [
            np.hypot(*(env.states.blocks[0, i] - env.states.blocks[0, j]))
            for i, j in ((0, 1), (0, 2), (1, 2))
        ]
        assert min(gaps) > 0.15, "blocks lie in each other"


def test_the_gripper_carries_what_it_closes_on() -> None:
    env = sweep.SweepBatch([sweep.Start("goal", "gripper", 0)])
    env.reset()
    env.states.pusher[0] = env.states.blocks[0, 0]
    env.step(np.array([[0.0, 0.0, 1.0]]))
    assert env.states.held[0] == 0
    before = env.states.blocks[0, 0].copy()
    env.step(np.array([[1.0, 0.0, 1.0]]))
    assert np.allclose(env.states.blocks[0, 0] - before, (0.1, 0.0), atol=1e-12)
    env.step(np.array([[1.0, 0.0, -1.0]]))
    assert env.states.held[0] == -1 and np.allclose(env.states.blocks[0, 0] - before, (0.1, 0.0), atol=1e-12)


def test_endings_are_told_apart() -> None:
    """The hazard and success terminate, the limit truncates, and an episode that ended earns and moves no more."""
    start = sweep.Start("avoid", "short", 2)
    env = sweep.SweepBatch([start, sweep.Start("sweep", "short", 2)], max_steps=3)
    env.reset()
    env.states.pusher[0] = env.table.hazard[0]
    made = env.step(np.array([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]]))
    assert made.terminated.tolist() == [True, False] and not made.success[0] and not made.truncated.any()
    seen = made.observation[0].copy()
    env.step(np.ones((2, 3)))
    made = env.step(np.ones((2, 3)))
    assert made.truncated.tolist() == [False, True] and not made.terminated.any()
    assert np.array_equal(made.observation[0], seen) and made.reward[0] == 0.0


def test_success_can_be_lost_where_the_episode_goes_on() -> None:
    starts = [sweep.Start("goal", "gripper", 4)]
    for stop in (True, False):
        env = sweep.SweepBatch(starts, stop_on_success=stop)
        env.reset()
        env.states.blocks[0, 0] = env.table.goal[0]
        made = env.step(np.array([[0.0, 0.0, -1.0]]))
        assert made.success[0] and made.terminated[0] == stop and made.reward[0] == 0.0
        env.states.blocks[0, 0] = (-0.9, -0.9)
        again = env.step(np.array([[0.0, 0.0, -1.0]]))
        assert not again.success[0] and env.ended[0] == stop


@pytest.mark.parametrize("actions", [np.zeros((1, 2)), np.full((1, 3), np.nan)])
def test_bad_actions_are_refused(actions: np.ndarray) -> None:
    env = sweep.SweepBatch(STARTS[:1])
    env.reset()
    with pytest.raises(ValueError, match="action"):
        env.step(actions)


def test_experts_succeed_and_flaws_cost() -> None:
    starts = [
        sweep.Start(task, body, seed)
        for task in sweep.TASKS
        for body in sweep.EMBODIMENTS
        for seed in range(4)
    ]
    perfect = sweep.play(starts)
    assert np.mean([episode.succeeded for episode in perfect]) >= 0.98
    clumsy = sweep.play(starts, skill=sweep.Skill(noise=1.0, aim=0.15, pause=0.5))
    assert np.mean([e.succeeded for e in clumsy]) < 0.6
    alone = sweep.play([starts[5]], skill=sweep.DEMONSTRATOR, seed=3)[0]
    among = sweep.play(starts[:8], skill=sweep.DEMONSTRATOR, seed=3)[5]
    assert np.array_equal(alone.actions, among.actions)


def test_an_embodiment_gap_for_free() -> None:
    """Pushing straight forward works better the longer the stick is."""
    shares = []
    for body in ("short", "medium", "long"):
        env = sweep.SweepBatch([sweep.Start("sweep", body, seed) for seed in range(40)])
        env.reset()
        for _ in range(30):
            env.step(np.tile([0.0, 1.0, 1.0], (40, 1)))
        shares.append(float(sweep.score(env.table, env.states).mean()))
    assert shares[0] < shares[1] < shares[2], shares


def test_rows_are_stable_and_splits_apart() -> None:
    rows = {split: sweep.rows(split, 48) for split in sweep.SPLITS}
    prompts = [row.prompt for split in rows.values() for row in split]
    assert len(set(prompts)) == len(prompts)
    assert [row.prompt for row in sweep.rows("test", 8)] == [row.prompt for row in rows["test"][:8]]
    assert not any(row.meta["embodiment"] == sweep.HELD_OUT for row in rows["train"])
    assert any(row.meta["embodiment"] == sweep.HELD_OUT for row in rows["test"])
    assert sweep.Start.parse(rows["test"][3].prompt).task == rows["test"][3].meta["task"]


def test_compared_segments_are_ordered_by_progress() -> None:
    rows = sweep.rows("validation", 12, kind="preference")
    assert all(sweep.progress(row.chosen) > sweep.progress(row.rejected) for row in rows)
    assert all(row.chosen.start == row.rejected.start for row in rows)
    assert (
        sweep.rows("validation", 3, kind="preference")[2].chosen.rewards.tolist()
        == rows[2].chosen.rewards.tolist()
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: sweep.rows("tset", 1), "test"),
        (lambda: sweep.rows("test", 1, kind="captoin"), "caption"),
        (lambda: sweep.Start("sweeep", "short", 0), "sweep"),
        (lambda: sweep.Start.parse("sweep short"), "TASK EMBODIMENT SEED"),
    ],
)
def test_mistakes_are_named(call: object, words: str) -> None:
    assert callable(call)
    with pytest.raises(UserError, match=words):
        call()


def test_an_episode_can_be_cut_drawn_and_saved(tmp_path: object) -> None:
    from pathlib import Path

    from PIL import Image

    episode = sweep.play([sweep.Start("sweep", "long", 5)])[0]
    part = episode.cut(3, 9)
    assert len(part) == 6 and len(part.observations) == 7 and not part.terminated and not part.truncated
    assert np.array_equal(part.frames(), episode.frames()[3:10])
    path = episode.save_as(Path(str(tmp_path)) / "one")
    with Image.open(path) as picture:
        assert path.suffix == ".gif" and picture.n_frames > 2
    assert (Path(str(tmp_path)) / "one.json").is_file()


GOLDEN = [0.8997021973, -0.6509263133, 0.2225697007, -0.0156728084, 0.5938884241, 0.2354880427]
GOLDEN += [-0.5576691506, 0.1052783918, -0.521635458, -0.7944824949]
PIXELS = "160a1f7c451a40c19f3f9ecfbd745121502c8913049b3495eb4d21305be3f61e"


def test_the_way_back_undoes_the_way_there() -> None:
    there = sweep.layout([sweep.Start("goal", "gripper", k) for k in range(40)])
    back = sweep.layout([sweep.Start("goal", "gripper", sweep.BACK + k) for k in range(40)])
    assert there.goal[:, 1].min() >= 0.2 and back.goal[:, 1].max() <= 0.05 and back.goal[:, 1].min() >= -0.35
    assert np.median(back.blocks[:, 0, 1]) > np.median(there.blocks[:, 0, 1]) + 0.15
    recorded = DEMOS.rows("train", 6, 0, "caption")
    assert [row.completion.start["seed"] >= sweep.BACK for row in recorded] == [False, True] * 3
    assert all(row.meta["start"]["seed"] < sweep.BACK for row in DEMOS.rows("train", 6, 0, "start"))
    other = [sweep.layout([sweep.Start("group", "gripper", seed)]) for seed in (sweep.BACK + 3,)]
    assert np.abs(other[0].blocks[..., 1]).max() < 0.36  # no other task has a way back
