"""Gradients: the policy gradient against its closed form, the pathwise one, pairs at the reference, counted calls."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image

from mmalign.data.pairs import Pair
from mmalign.engine.pairs import pair_objective
from mmalign.engine.reference import Reference
from mmalign.errors import UserError
from mmalign.modalities.diffusion.policy import policy_of
from mmalign.modalities.diffusion.steps import gaussian_logp
from mmalign.objectives.policy import ppo_policy_loss
from mmalign.objectives.preference import PairSettings
from mmalign.rng import generator
from mmalign.types import Row

DIMS, DRAWS, STD = 6, 40_000, 0.5


def bandit() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draws of a one-step Gaussian policy, its mean, and the target of the reward ``-|x - c|^2``."""
    mean = torch.linspace(-1, 1, DIMS, dtype=torch.float64)
    noise = torch.randn(DRAWS, DIMS, generator=generator(0, "bandit"), dtype=torch.float64)
    return mean + STD * noise, mean, torch.full((DIMS,), 0.3, dtype=torch.float64)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_policy_gradient_is_the_closed_form_and_the_pathwise_one_varies_less(reduction: str) -> None:
    """E[-|x - c|^2] has the gradient -2 (mean - c); of a mean of log-densities comes one D-th of it."""
    drawn, mean, target = bandit()
    want = -2 * (mean - target)
    reward = -(drawn - target).square().sum(-1)
    advantage = reward - reward.mean()
    theta = mean.clone().requires_grad_(True)
    std = torch.full((DRAWS,), STD, dtype=torch.float64)
    logp = gaussian_logp(drawn, theta.expand(DRAWS, -1), std, reduction)[:, None]
    loss, _ = ppo_policy_loss(
        logp, logp.detach(), advantage[:, None], torch.ones_like(logp, dtype=torch.bool), 0.2
    )
    got = -torch.autograd.grad(loss, theta)[0] * (DIMS if reduction == "mean" else 1)
    score = advantage[:, None] * (drawn - mean) / STD**2
    error = score.std(0) / math.sqrt(DRAWS)
    torch.testing.assert_close(got, score.mean(0))
    assert ((got - want).abs() < 3 * error).all()
    path = -2 * (drawn - target)
    assert ((path.mean(0) - want).abs() < 3 * path.std(0) / math.sqrt(DRAWS)).all()
    assert (path.var(0) < 0.5 * score.var(0)).all()


@pytest.fixture
def pairs(pictures: list[Row]) -> list[Pair]:
    def side(row: Row, completion: Any, name: str) -> Row:
        return Row(id=f"{row.id}:{name}", prompt=row.prompt, completion=completion)

    grey = Image.new("RGB", (16, 16), (90, 120, 150))
    return [Pair(side(row, grey, "chosen"), side(row, row.completion, "rejected")) for row in pictures]


def flat_gradient(model: Any) -> torch.Tensor:
    found = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    model.zero_grad(set_to_none=True)
    return torch.cat(found)


@pytest.mark.parametrize("name", ["sd", "sd3", "drawing"])
def test_diffusion_dpo_at_the_reference(
    name: str, open_family: Callable[..., Any], pairs: list[Pair]
) -> None:
    loaded = open_family(name)
    reference = Reference(loaded.adapter, loaded.model, "copy")
    loss = pair_objective(loaded.adapter, loaded.model, reference, PairSettings(("sigmoid",), beta=5000.0))
    gradients = []
    for items in (pairs, [Pair(pair.rejected, pair.chosen) for pair in pairs]):
        value = loss(items, generator(1)).value
        assert float(value.detach()) == pytest.approx(math.log(2), abs=1e-6)
        value.backward()
        gradients.append(flat_gradient(loaded.model))
    assert float(gradients[0].abs().max()) > 0
    torch.testing.assert_close(
        gradients[0], -gradients[1], rtol=1e-3, atol=1e-4 * float(gradients[0].abs().max())
    )


def test_shared_noise_makes_the_gradient_of_a_pair_less_noisy(
    open_family: Callable[..., Any], pairs: list[Pair]
) -> None:
    loaded = open_family("sd")

    def gradient(seed: int, shared: bool) -> torch.Tensor:
        scores = [
            loaded.adapter.logp(
                loaded.model,
                loaded.adapter.collate([getattr(pairs[0], side)]),
                generator(seed, "" if shared else side),
            ).values
            for side in ("chosen", "rejected")
        ]
        (scores[0] - scores[1]).sum().backward()
        return flat_gradient(loaded.model)

    spread = [torch.stack([gradient(k, shared) for k in range(24)]).var(0).sum() for shared in (True, False)]
    assert float(spread[0]) < 0.7 * float(spread[1])


@pytest.mark.parametrize("grad_steps", [1, 2, 4])
@pytest.mark.parametrize("name", ["sd", "sd3"])
def test_gradient_flows_through_exactly_the_last_calls(
    name: str, grad_steps: int, open_family: Callable[..., Any], prompts: list[Row]
) -> None:
    loaded = open_family(name, checkpointing=False, guidance_scale=2.0)
    calls: list[bool] = []
    core = policy_of(loaded.model).backbone.denoiser
    core.register_forward_hook(lambda module, inputs, out: calls.append(out[0].requires_grad))
    loaded.adapter.sample_differentiable(loaded.model, prompts, generator(0), grad_steps)
    assert calls == [False] * (4 - grad_steps) + [True] * grad_steps


def test_refl_is_one_call_with_gradient_at_a_random_late_step(
    open_family: Callable[..., Any], prompts: list[Row]
) -> None:
    loaded = open_family("sd", checkpointing=False, grad_from=0.5)
    core = policy_of(loaded.model).backbone.denoiser
    seen = set()
    for seed in range(12):
        calls: list[bool] = []
        hook = core.register_forward_hook(
            lambda module, inputs, out, to=calls: to.append(out[0].requires_grad)
        )
        loaded.adapter.sample_differentiable(loaded.model, prompts[:1], generator(seed), 1)
        hook.remove()
        assert calls == [False] * (len(calls) - 1) + [True]
        seen.add(len(calls))
    assert seen == {3, 4}


@pytest.mark.parametrize(("name", "sampler"), [("sd", "auto"), ("sd", "sde"), ("sd3", "auto")])
def test_draft_lv_draws_the_last_step_several_times(
    name: str, sampler: str, open_family: Callable[..., Any], prompts: list[Row]
) -> None:
    loaded = open_family(name, checkpointing=False, last_draws=3, sampler=sampler)
    calls: list[tuple[bool, int]] = []
    core = policy_of(loaded.model).backbone.denoiser
    core.register_forward_hook(lambda module, inputs, out: calls.append((out[0].requires_grad, len(out[0]))))
    out = loaded.adapter.sample_differentiable(loaded.model, prompts, generator(0), 1)
    assert calls == [(False, len(prompts))] * 4 + [(True, 3 * len(prompts))]
    kin = out.detach().reshape(len(prompts), 3, -1)
    within, between = kin.var(1).mean(), kin.mean(1).var(0).mean()
    assert 0 < within < between
    with pytest.raises(UserError, match="last_draws: the last step alone"):
        loaded.adapter.sample_differentiable(loaded.model, prompts, generator(0), 2)


def test_draft_lv_is_less_noisy_than_one_draw_at_the_same_chain(
    open_family: Callable[..., Any], prompts: list[Row]
) -> None:
    """Given the finished picture, the mean of n draws has an n-th of one draw's variance: draws are independent."""
    spread = []
    for draws in (2, 8):
        loaded = open_family("drawing", checkpointing=False, last_draws=draws)
        bias = policy_of(loaded.model).transformer.proj_out.bias
        halves = []
        for seed in range(40):
            out = loaded.adapter.sample_differentiable(loaded.model, prompts[:1], generator(seed), 1)
            first = [
                torch.autograd.grad(part.square().mean(), bias, retain_graph=True)[0] for part in out.chunk(2)
            ]
            halves.append(first[0] - first[1])
        spread.append(float(torch.stack(halves).square().sum(1).mean()))
    assert spread[1] / spread[0] == pytest.approx(0.25, rel=0.5)


def test_pathwise_gradient_is_the_finite_difference_and_checkpointing_keeps_it(
    open_family: Callable[..., Any], prompts: list[Row]
) -> None:
    gradients = []
    for checkpointing in (False, True):
        loaded = open_family("drawing", checkpointing=checkpointing)
        bias = policy_of(loaded.model).transformer.proj_out.bias
        out = loaded.adapter.sample_differentiable(loaded.model, prompts, generator(0), 4)
        assert out.shape == (3, 3, 32, 32) and 0 <= float(out.min()) and float(out.max()) <= 1
        out.mean().backward()
        gradients.append(bias.grad.clone())
    torch.testing.assert_close(gradients[0], gradients[1])
    direction, values = gradients[0] / gradients[0].norm(), []
    for sign in (1, -1):
        with torch.no_grad():
            bias += sign * 5e-2 * direction
            values.append(
                loaded.adapter.sample_differentiable(loaded.model, prompts, generator(0), 4).double().mean()
            )
            bias -= sign * 5e-2 * direction
    assert float(values[0] - values[1]) / 0.1 == pytest.approx(float(gradients[0].norm()), rel=0.03)


def test_no_step_with_gradient_is_refused_and_more_than_all_are_all(
    open_family: Callable[..., Any], prompts: list[Row]
) -> None:
    loaded = open_family("drawing")
    with pytest.raises(UserError, match="expected at least 1, got 0"):
        loaded.adapter.sample_differentiable(loaded.model, prompts, generator(0), 0)
    pictures = [loaded.adapter.sample_differentiable(loaded.model, prompts, generator(0), k) for k in (4, 9)]
    gradients = [
        torch.autograd.grad(one.mean(), policy_of(loaded.model).transformer.proj_out.bias)[0]
        for one in pictures
    ]
    assert torch.equal(gradients[0], gradients[1])
