"""VPL's model: a user read off comparisons in any order, what a set mixes, saving, and the users themselves."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mmalign.engine.transitions.trajectory import Trajectory
from mmalign.errors import UserError
from mmalign.pipeline.stages.transitions import answered_rollout
from mmalign.rewards.vpl import VPL, OneForAll
from mmalign.rewards.vpl.model import STEPS, UserReward, segment, stacked
from mmalign.rewards.vpl.quality import linear_probe
from mmalign.worlds.sweep.single import ZONE
from mmalign.worlds.sweep.users import contested, side, utility


def settings(n: int, shuffle: bool = False) -> Any:
    return SimpleNamespace(ranking=SimpleNamespace(n_train=n, n_heldout=n, shuffle=shuffle))


@pytest.fixture(scope="module")
def rows() -> Any:
    return ZONE.rows("train", 24, 0, "preference")


def test_users_disagree_about_the_side_and_agree_about_progress(rows: Any) -> None:
    pairs = [(row.chosen, row.rejected) for row in rows]
    fought = [contested(*pair) for pair in pairs]
    assert 0.3 < sum(fought) / len(fought) < 1
    for a, b in pairs:
        left, right = (utility(user, a) - utility(user, b) for user in (0, 1))
        assert left + right == pytest.approx(0.1 * (sum_progress(a) - sum_progress(b)))
        assert right - left == pytest.approx(2 * (side(a) - side(b)))


def sum_progress(episode: Any) -> float:
    return float(episode.potential[-1, 0] - episode.potential[0, 0]) + float(episode.ended_well)


def test_sets_are_labelled_by_their_own_user(rows: Any) -> None:
    made = VPL().rankings(rows, settings(24), part="train", seed=0)
    assert [item.user for item in made[:4]] == [0, 1, 0, 1] and made[0].better.shape[:2] == (8, STEPS)
    known = {
        tuple(segment(e)[0].tolist()) + tuple(segment(e)[-1].tolist()): e
        for r in rows
        for e in (r.chosen, r.rejected)
    }
    for item in made[:6]:
        for better, worse in zip(item.better, item.worse, strict=True):
            a, b = (known[tuple(s[0].tolist()) + tuple(s[-1].tolist())] for s in (better, worse))
            assert utility(item.user, a) >= utility(item.user, b)


def test_shuffled_sets_mix_users(rows: Any) -> None:
    plain = VPL().rankings(rows, settings(24), part="train", seed=0)
    mixed = VPL().rankings(rows, settings(24, True), part="train", seed=0)
    held = VPL().rankings(rows, settings(24, True), part="heldout", seed=0)
    same = [
        torch.equal(a.better[k], b.better[k]) for a, b in zip(plain, mixed, strict=True) for k in range(8)
    ]
    assert 0.3 < sum(same) / len(same) < 0.95
    again = VPL().rankings(rows, settings(24), part="heldout", seed=0)
    assert all(torch.equal(a.better, b.better) for a, b in zip(held, again, strict=True))


def test_the_posterior_sees_no_order_and_no_direction(rows: Any) -> None:
    item = VPL().rankings(rows, settings(24), part="train", seed=0)[0]
    model = UserReward(item.better.shape[-1], seed=1)
    every = torch.ones(1, 8, dtype=torch.bool)
    mean, log_var = model.posterior(item.better[None], item.worse[None], every)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    again = model.posterior(item.better[order][None], item.worse[order][None], every)
    assert torch.allclose(mean, again[0], atol=1e-5) and torch.allclose(log_var, again[1], atol=1e-5)
    swapped = model.posterior(item.worse[None], item.better[None], every)
    assert not torch.allclose(mean, swapped[0], atol=1e-3)  # another label is another person


def test_without_a_latent_user_opposite_labels_cancel(rows: Any) -> None:
    """On a pair asked of both users the gradient of one reward for all is that of a coin: 0 at indifference."""
    item = OneForAll().rankings(rows, settings(24), part="train", seed=0)[0]
    model = UserReward(item.better.shape[-1], latent=0, seed=1)
    with torch.no_grad():
        model.net[-1].weight.zero_()
    none = torch.zeros(1, 0)
    both = torch.cat([model.logits(item.better[None], item.worse[None], none),
                      model.logits(item.worse[None], item.better[None], none)])  # fmt: skip
    torch.nn.functional.softplus(-both).mean().backward()
    assert float(both.detach().abs().max()) == 0
    assert all(p.grad is None or float(p.grad.abs().max()) < 1e-7 for p in model.net.parameters())


def test_saved_models_come_back(rows: Any, tmp_path: Path) -> None:
    recipe = VPL(user=1)
    items = recipe.rankings(rows, settings(24), part="train", seed=0)
    model = recipe.create(None, "", rows[0], settings(24), device="cpu", dtype="float32")  # type: ignore[arg-type]
    recipe.prepare(model, items, settings(24))
    model.save(tmp_path)
    read = recipe.load(None, tmp_path, device="cpu", dtype="float32")  # type: ignore[arg-type]
    z = torch.randn(4, generator=torch.Generator().manual_seed(0))
    steps = stacked(rows[0].chosen)
    assert torch.equal(model.rewards(steps, z), read.rewards(steps, z))
    assert torch.equal(model.contexts[1][0], read.contexts[1][0])
    with pytest.raises(UserError, match="reward_model"):
        recipe.load(None, tmp_path / "none", device="cpu", dtype="float32")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="user"):
        VPL(user=2)


def test_the_reward_pays_real_steps_with_unit_spread(rows: Any) -> None:
    recipe = VPL(user=0)
    items = recipe.rankings(rows, settings(24), part="train", seed=0)
    model = recipe.create(None, "", rows[0], settings(24), device="cpu", dtype="float32")  # type: ignore[arg-type]
    recipe.prepare(model, items, settings(24))
    cfg = SimpleNamespace(model_weight=2.0)
    reward = recipe.reward(cfg, model=model, judge=None, extractor=None, baseline={})  # type: ignore[arg-type]
    answered = ZONE.rows("train", 6, 0, "caption")
    rollout = answered_rollout(answered, [len(row.completion) for row in answered])
    paid = reward(rollout).per_step
    assert float(paid[~rollout.mask].abs().sum()) == 0
    assert float(paid[rollout.mask].mean()) == pytest.approx(0, abs=1e-5)
    assert float(paid[rollout.mask].std()) == pytest.approx(2.0, rel=1e-4)
    assert all(isinstance(t, Trajectory) for t in map(as_trajectory, answered))


def as_trajectory(row: Any) -> Trajectory:
    from mmalign.modalities.robot import RobotAdapter

    return RobotAdapter().trajectories([row])[0]


def test_a_probe_reads_a_linear_label_and_not_a_coin() -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(400, 3, generator=rng)
    coin = torch.randint(2, (400,), generator=rng)
    assert linear_probe(x, (x[:, 1] > 0).long()) > 0.95
    assert 0.35 < linear_probe(x, coin) < 0.65
