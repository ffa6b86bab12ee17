"""RAPL's parts on the sweep world: videos, what the reward pays and to which step, what an aligned encoder learns."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mmalign.errors import UserError
from mmalign.pipeline.stages.transitions import answered_rollout
from mmalign.rewards.rapl import FrameScoreRecipe, Rapl
from mmalign.rewards.rapl.encoder import AlignedEncoder, Comparison, FrameEncoder, FrameScore, pixel_features
from mmalign.rewards.rapl.pretrain import pretrain
from mmalign.rewards.rapl.quality import spearman, video_quality
from mmalign.rewards.rapl.reward import RaplReward, ScoreReward
from mmalign.rewards.rapl.videos import expert_videos, frames_at, spaced, video
from mmalign.worlds.scenes.ship import file_sha256
from mmalign.worlds.sweep.single import ZONE

EYE = ZONE.READERS["eye"]


def settings(n: int, shuffle: bool = False, source: str | None = None) -> Any:
    ranking = SimpleNamespace(n_train=n, n_heldout=n, shuffle=shuffle)
    return SimpleNamespace(ranking=ranking, model_name_or_path=source)


@pytest.fixture(scope="module")
def rows() -> Any:
    return ZONE.rows("train", 10, 0, "preference")


@pytest.fixture(scope="module")
def recorded() -> Any:
    return ZONE.rows("train", 6, 0, "caption")


def test_videos_are_evenly_spaced_small_frames(rows: Any) -> None:
    episode = rows[0].chosen
    made = video(episode)
    assert spaced(22, 12)[0] == 0 and spaced(22, 12)[-1] == 22 and spaced(3, 12) == sorted(spaced(3, 12))
    assert made.shape == (12, 3, 32, 32) and 0 <= float(made.min()) and float(made.max()) <= 1
    whole = torch.from_numpy(episode.frames()[len(episode)]).float() / 255
    assert torch.allclose(made[-1, :, 5, 7], whole[10:12, 14:16].mean((0, 1)), atol=1e-5)


def test_other_patches_change_the_picture_and_nothing_of_the_task(rows: Any) -> None:
    episode = rows[0].chosen
    plain, moved = frames_at(episode, [0, 5]), frames_at(episode, [0, 5], patches=1)
    changed = (plain - moved).abs().amax(1) > 0
    assert 0.01 < float(changed.float().mean()) < 0.3
    red = (plain[:, 0] > 0.7) & (plain[:, 1] < 0.3)  # marked blocks
    assert bool(red.any()) and not bool((changed & red).float().mean() > 0.02)


def test_the_encoder_is_as_small_as_it_says() -> None:
    assert 40_000 < sum(p.numel() for p in FrameEncoder().parameters()) < 60_000


def test_reward_is_paid_on_every_step_and_sums_to_the_transport_cost(recorded: Any) -> None:
    model, experts = AlignedEncoder(1), expert_videos("sweep", "medium", 2, 0)
    rollout = answered_rollout(recorded, [len(row.completion) for row in recorded])
    reward = RaplReward(model, {"sweep": experts}, every=1, weight=3.0)(rollout)
    assert float(reward.per_step[~rollout.mask].abs().sum()) == 0
    assert bool((reward.per_step[rollout.mask] < 0).all())
    episode = recorded[0].completion
    frames = frames_at(episode, range(1, len(episode) + 1))
    assert float(reward.per_step[0].sum()) == pytest.approx(
        3 * float(model.rewards(frames, experts).sum()), rel=1e-4
    )
    thin = RaplReward(model, {"sweep": experts}, every=4)(rollout).per_step[0]
    assert torch.equal(thin[0], thin[3])  # four steps share one frame's reward


def test_an_experts_own_video_costs_least(recorded: Any) -> None:
    model, experts = AlignedEncoder(1), expert_videos("sweep", "medium", 2, 0)
    own = float(model.rewards(experts[0], experts[:1]).sum())
    others = [float(model.rewards(video(row.completion), experts[:1]).sum()) for row in recorded]
    assert max(others) < own


def test_a_task_without_experts_is_named(recorded: Any) -> None:
    rollout = answered_rollout(recorded[:1], [len(recorded[0].completion)])
    with pytest.raises(UserError, match="sweep"):
        RaplReward(AlignedEncoder(), {"goal": torch.zeros(1, 2, 3, 32, 32)})(rollout)


def test_score_reward_is_the_mean_frame_score(recorded: Any) -> None:
    model = FrameScore(2)
    with torch.no_grad():
        model.head.weight.normal_(generator=torch.Generator().manual_seed(0))
    frames = torch.cat([video(row.completion) for row in recorded])
    model.centre(frames)
    assert float(model.rewards(frames).mean()) == pytest.approx(0, abs=1e-5)
    rollout = answered_rollout(recorded, [len(row.completion) for row in recorded])
    paid = ScoreReward(model, every=1)(rollout).per_step
    episode = recorded[1].completion
    wanted = model.rewards(frames_at(episode, range(1, len(episode) + 1))).mean()
    assert float(paid[1].sum()) == pytest.approx(float(wanted), rel=1e-3, abs=1e-5)


def test_alignment_and_scores_fall_on_labels_they_can_learn() -> None:
    """Videos whose worth is a dark square's height; a bright patch of random place and colour distracts."""
    rng = torch.Generator().manual_seed(0)

    def scene(height: int) -> torch.Tensor:
        frames = torch.full((4, 3, 32, 32), 0.9)
        frames[:, :, height : height + 6, 12:18] = 0.1
        y, x = torch.randint(0, 26, (2,), generator=rng).tolist()
        frames[:, :, y : y + 6, x : x + 6] = torch.rand(3, 1, 1, generator=rng)
        return frames

    def label() -> Comparison:
        good, bad = (
            scene(int(torch.randint(0, 6, (1,), generator=rng))),
            scene(int(torch.randint(14, 24, (1,), generator=rng))),
        )
        return Comparison(scene(2), good, bad)

    train, held = [label() for _ in range(24)], [label() for _ in range(24)]
    for model in (AlignedEncoder(0), FrameScore(0)):
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
        for k in range(30):
            loss, _ = model.loss([train[(8 * k + i) % 24] for i in range(8)])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert model.loss(held)[1]["accuracy"] > 0.85


@pytest.mark.parametrize("recipe", [Rapl(), FrameScoreRecipe()])
def test_recipes_train_measure_save_and_load(recipe: Any, rows: Any, tmp_path: Path) -> None:
    items = recipe.rankings(rows, settings(6), part="train", seed=0)
    assert len(items) == 6 and items[0].rows == (rows[0],)
    model = recipe.create(None, "", rows[0], settings(6), device="cpu", dtype="float32")
    recipe.prepare(model, items, settings(6))
    recipe.settle(model, items)
    model.save(tmp_path)
    read = recipe.load(None, tmp_path, device="cpu", dtype="float32")
    frames = video(rows[7].chosen)
    assert model.score(frames, "sweep") == pytest.approx(read.score(frames, "sweep"), rel=1e-5)
    assert model.experts["sweep"].shape[1:] == (12, 3, 32, 32)
    other = FrameScoreRecipe() if isinstance(recipe, Rapl) else Rapl()
    with pytest.raises(UserError, match="holds no"):
        other.load(None, tmp_path, device="cpu", dtype="float32")  # type: ignore[arg-type]


@pytest.mark.parametrize("recipe", [Rapl(), FrameScoreRecipe()])
def test_both_rewards_start_from_the_eye_where_it_is_named(recipe: Any, rows: Any, tmp_path: Path) -> None:
    def made(source: Path | None) -> torch.Tensor:
        cfg = settings(6, source=None if source is None else "embedded:eye")
        model = recipe.create(None, str(source), rows[0], cfg, device="cpu", dtype="float32")
        return model.net.encoder(video(rows[0].chosen)).detach()  # type: ignore[no-any-return]

    assert torch.equal(made(EYE), made(EYE)) and not torch.equal(made(None), made(None))
    with pytest.raises(UserError, match=r"reward_model.model_name_or_path: .* has no model.safetensors"):
        made(tmp_path)
    save_file({"net.0.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="is no encoder of frames"):
        made(tmp_path)


def test_the_shipped_eye_is_what_its_record_says(recorded: Any) -> None:
    record = json.loads((EYE / "README.json").read_text())
    assert record["weights_sha256"] == file_sha256(EYE / "model.safetensors")
    encoder = FrameEncoder()
    encoder.read(EYE)
    with torch.no_grad():
        embedded = encoder(torch.cat([video(row.completion) for row in recorded]))
    spread = embedded.std(0).mean()
    assert 0.7 < float(spread) < 1.3 and float(embedded.mean(0).abs().mean()) < 0.5 * float(spread)


def test_pretraining_learns_to_draw_what_it_saw(recorded: Any) -> None:
    frames = torch.cat([video(row.completion) for row in recorded])

    def trained(steps: int) -> tuple[FrameEncoder, float]:
        return pretrain(frames, frames, steps=steps, batch=16, learning_rate=3e-3, seed=0)

    (short, before), (again, _), (encoder, after) = trained(2), trained(2), trained(200)
    assert after > before + 0.3
    embedded = encoder(frames).detach()
    assert float(embedded.mean(0).abs().max()) < 1e-4
    assert float(embedded.std(0).mean()) == pytest.approx(1, abs=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(short.parameters(), again.parameters(), strict=True))


def test_coin_labels_turn_about_half_of_the_pairs_round(rows: Any) -> None:
    plain = Rapl().rankings(rows, settings(10), part="train", seed=0)
    turned = Rapl().rankings(rows, settings(10, True), part="train", seed=0)
    same = [
        any(torch.equal(a.comparison.preferred, b.comparison.preferred) for b in [t])
        for a, t in zip(plain, turned, strict=True)
    ]
    assert 0 < sum(same) < 10


def test_quality_of_a_fair_and_of_a_blind_score(rows: Any) -> None:
    episodes = [e for row in rows[:4] for e in (row.chosen, row.rejected)]
    reds = lambda frames, task: float(((frames[-1, 0] > 0.6) & (frames[-1, 1] < 0.4))[:8].sum())  # noqa: E731
    found = video_quality(reds, episodes, episodes)
    assert found["spearman"] > 0.4 and found["spearman"] == found["spearman_long"]
    assert video_quality(lambda frames, task: 1.0, episodes, episodes)["spearman"] == 0.0
    pixels = video_quality(lambda frames, task: float(pixel_features(frames).sum()), episodes, episodes)
    assert pixels["distractor"] > found["distractor"]
    assert spearman([1, 2, 3], [10, 20, 15]) == pytest.approx(0.5)
