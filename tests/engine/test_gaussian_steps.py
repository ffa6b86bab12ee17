"""Steps that are not tokens: reductions, exact KL, derived clip, gradient through the sampler, evidence in the prompt."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mmalign.config.pathwise import PathwiseConfig
from mmalign.engine.experience import make_experience, rollout_metrics
from mmalign.engine.loop import LoopState
from mmalign.engine.online import KLCoefficient, OnlineTrainer
from mmalign.engine.optim import make_optimizer
from mmalign.engine.pathwise import PathwiseTrainer
from mmalign.engine.reference import Reference
from mmalign.engine.scoring import score_rollout
from mmalign.engine.update import derived_cliprange, policy_update_loss
from mmalign.errors import UserError
from mmalign.guards.modality_used import check_modality_used
from mmalign.objectives.kl import gaussian_kl
from mmalign.protocols import Borrows, Configurable, DifferentiableReward, Pathwise
from mmalign.testing.policies import ToyAdapter, toy_rows
from mmalign.types import LogP
from tests.engine.gaussian_modality import DIMS, GaussianAdapter, Nearness, gaussian_rows
from tests.engine.settings import ppo_settings


def settings(**changes: Any) -> Any:
    return ppo_settings(**{
        "advantage": "grpo", "num_generations": 8, "rollout_batch_size": 8, "num_ppo_epochs": 1, "num_minibatches": 1,
        "cliprange": None, "kl_placement": "loss", "kl_estimator": "exact", "kl_stop": 100.0, "kl_coef": 0.0,
        "learning_rate": 3e-2, "reuse_sampling_logp": False, **changes,
    })  # fmt: skip


def trainer(cfg: Any, reduction: str = "mean") -> OnlineTrainer:
    adapter = GaussianAdapter()
    adapter.configure({"reduction": reduction})
    model = adapter.load("")
    state = LoopState({"policy": model}, make_optimizer({"policy": model.parameters()}, {"policy": 3e-2}), {})
    return OnlineTrainer(
        adapter, model, Reference(adapter, model, "copy"), Nearness(), None, gaussian_rows(), cfg, state,
        KLCoefficient(cfg.kl_coef), "grpo", 0,
    )  # fmt: skip


def test_gaussian_kl_is_torchs_and_is_zero_off_the_mask() -> None:
    mean, ref = torch.randn(2, 3, 5, dtype=torch.float64), torch.randn(2, 3, 5, dtype=torch.float64)
    std = torch.rand(2, 3, dtype=torch.float64) + 0.1
    mask = torch.tensor([[True, True, False], [True, False, False]])
    wide = std[..., None]
    normal = torch.distributions.Normal
    want = torch.distributions.kl_divergence(normal(mean, wide), normal(ref, wide)).sum(-1) * mask
    torch.testing.assert_close(gaussian_kl(mean, ref, std * mask, mask), want)
    with pytest.raises(ValueError, match="deterministic"):
        gaussian_kl(mean, ref, std * 0, mask)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_kl_is_in_nats_of_whole_steps_whatever_the_reduction(reduction: str) -> None:
    made = trainer(settings(), reduction)
    rollout = made.adapter.sample(made.model, made.rows, 512, torch.Generator().manual_seed(0))  # type: ignore[attr-defined]
    with torch.no_grad():
        made.model.mean += 0.2  # the policy that is scored has moved away from its reference
    scored = {
        estimator: score_rollout(
            made.adapter, made.model, made.reference, {"values": None, "cost_values": None}, rollout,
            settings(kl_estimator=estimator), made.reward(rollout),
        )
        for estimator in ("exact", "k1")
    }  # fmt: skip
    exact = rollout_metrics(scored["exact"], 0.0)["kl"]
    want = 2 * DIMS * 0.2**2 / (2 * 0.5**2)  # two stochastic steps
    torch.testing.assert_close(exact, torch.full_like(exact, want))
    # k1 on samples of the *reference* estimates minus KL(reference || policy), which is the same number here
    k1 = rollout_metrics(scored["k1"], 0.0)["kl"]
    assert float(k1.mean()) == pytest.approx(-want, abs=4 * float(k1.std()) / math.sqrt(len(k1)))


def test_kl_penalty_in_the_reward_is_per_nat() -> None:
    made = trainer(settings())
    rollout = made.adapter.sample(made.model, made.rows, 4, torch.Generator().manual_seed(0))  # type: ignore[attr-defined]
    with torch.no_grad():
        made.model.mean += 0.2
    cfg = settings(kl_placement="reward", kl_coef=1.0, dense_advantages=False, scale_rewards="none")
    arguments = (
        made.adapter,
        made.model,
        made.reference,
        {"values": None, "cost_values": None},
        rollout,
        cfg,
    )
    scored = score_rollout(*arguments, made.reward(rollout))
    with_kl = make_experience(scored, cfg, 10.0).advantages
    without = make_experience(scored, cfg, 0.0).advantages
    torch.testing.assert_close(
        with_kl, without, atol=1e-4, rtol=0
    )  # the same KL everywhere cancels in a group
    assert scored.exact_kl is not None and float(scored.exact_kl.sum(-1).mean()) > 0.3


def test_the_clip_follows_the_reduction() -> None:
    steps = torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool)
    assert derived_cliprange(LogP(*steps)) == 0.2
    assert derived_cliprange(LogP(*steps, reduction="mean", dims=16384)) == pytest.approx(1e-4)
    assert derived_cliprange(LogP(*steps, reduction="mean", dims=1024)) == pytest.approx(4e-4)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_ratio_clips_where_derived(reduction: str) -> None:
    """An update on old data moves until the derived clip binds, for either reduction."""
    made = trainer(settings(num_ppo_epochs=40), reduction)
    metrics = made.step(1)
    assert 0 < metrics["clip_ratio"] < 1
    assert metrics["approx_kl"] > 0


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_grpo_learns_gaussian_steps(reduction: str) -> None:
    made = trainer(settings(kl_coef=1e-3), reduction)
    rewards = [made.step(step)["rewards/mean"] for step in range(1, 61)]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.5
    learnt = made.model.mean[:, 0].mean(-1)
    assert learnt[0] > 0.3 and learnt[1] < -0.3


def test_exact_kl_needs_gaussian_steps() -> None:
    adapter = ToyAdapter()
    model = adapter.load("toy:1")
    rollout = adapter.sample(model, toy_rows(4), 2, torch.Generator().manual_seed(0))
    with pytest.raises(UserError, match="exact needs Gaussian steps"):
        score_rollout(
            adapter, model, Reference(adapter, model), {"values": None, "cost_values": None}, rollout,
            settings(), SimpleNamespace(per_step=rollout.logp),  # type: ignore[arg-type]
        )  # fmt: skip


def test_exact_kl_in_the_loss_has_the_kls_gradient() -> None:
    made = trainer(settings())
    rollout = made.adapter.sample(made.model, made.rows, 2, torch.Generator().manual_seed(0))  # type: ignore[attr-defined]
    with torch.no_grad():
        made.model.mean += 0.1
    cfg = settings(kl_coef=1.0, loss_type="grpo")
    critics: Any = {"values": None, "cost_values": None}
    arguments = (made.adapter, made.model, made.reference, critics, rollout, cfg)
    scored = score_rollout(*arguments, made.reward(rollout))
    data = make_experience(scored, cfg, 1.0)
    data = type(data)(**{**data.__dict__, "advantages": torch.zeros_like(data.advantages)})
    loss = policy_update_loss(made.adapter, made.model, None, data, list(range(len(rollout))), cfg, 1.0)
    loss.value.backward()
    want = 0.1 / 0.5**2 / 2 / 2  # d KL / d mean, averaged over two steps and shared by two classes
    torch.testing.assert_close(made.model.mean.grad[:, :2], torch.full((2, 2, DIMS), want))
    assert not made.model.mean.grad[:, 2].any()


def pathwise(**changes: Any) -> PathwiseTrainer:
    adapter = GaussianAdapter()
    model = adapter.load("")
    cfg = PathwiseConfig(
        max_steps=60, rollout_batch_size=8, grad_steps=3, learning_rate=3e-2, warmup_ratio=0.0, **changes
    )
    state = LoopState({"policy": model}, make_optimizer({"policy": model.parameters()}, {"policy": 3e-2}))
    reference = Reference(adapter, model, "copy") if cfg.kl_coef else None
    return PathwiseTrainer(adapter, model, reference, Nearness(), gaussian_rows(), cfg, state, "pathwise", 0)


def test_pathwise_learns_and_its_kl_holds_it_back() -> None:
    free, held = pathwise(), pathwise(kl_coef=1.0)
    for step in range(1, 61):
        last, kept = free.step(step), held.step(step)
    assert last["rewards/mean"] > kept["rewards/mean"] + 0.2
    assert float(free.model.mean[0, 0].detach().mean()) > 0.8
    assert 0 < kept["kl"] < 1.0


def test_no_gradient_reaches_steps_before_the_last_k() -> None:
    shallow = pathwise(reward_cap=5.0)
    shallow.cfg = shallow.cfg.model_copy(update={"grad_steps": 1})
    before = shallow.model.mean.detach().clone()
    shallow.step(1)  # the reward looks at the first of three steps only
    torch.testing.assert_close(shallow.model.mean.detach(), before)


def test_an_answer_that_reaches_the_cap_teaches_nothing() -> None:
    capped = pathwise(reward_cap=-100.0)
    metrics = capped.step(1)
    assert metrics["loss"] == 0.0 and metrics["grad_norm"] == 0.0


def test_alignprops_depth_varies_and_repeats_by_step() -> None:
    varied = pathwise(grad_steps_spread=3.0)
    depths = [varied._depth(step) for step in range(1, 20)]
    assert len(set(depths)) > 2 and min(depths) >= 1
    assert depths == [varied._depth(step) for step in range(1, 20)]


def test_the_guard_takes_the_prompt_away() -> None:
    adapter = GaussianAdapter()
    model = adapter.load("")
    with pytest.raises(UserError, match="ignores its conditions"):
        check_modality_used(adapter, model, gaussian_rows())
    with torch.no_grad():
        model.mean[1] += 1.0
    report = check_modality_used(adapter, model, [row for row in gaussian_rows() if row.prompt == 1] * 2)
    assert report.share_blank == 1.0 and report.n_shuffled == 0  # all have the same prompt: nothing to borrow
    both = check_modality_used(adapter, model, gaussian_rows(), allow_unused=True)
    assert both.n_shuffled == both.n == 8 and both.share_shuffled == 1.0


def test_settings_are_checked_by_name() -> None:
    adapter = GaussianAdapter()
    with pytest.raises(UserError, match=r"model.options: unknown key 'sdt' .did you mean .std."):
        adapter.configure({"sdt": 1.0})
    with pytest.raises(UserError, match="model.options: std: .*greater than 0"):
        adapter.configure({"std": -1.0})
    with pytest.raises(UserError, match="expected a number, not true or false"):
        adapter.configure({"std": True})


def test_capabilities_are_found() -> None:
    adapter = GaussianAdapter()
    assert (
        isinstance(adapter, Configurable) and isinstance(adapter, Borrows) and isinstance(adapter, Pathwise)
    )
    assert isinstance(Nearness(), DifferentiableReward)
