"""What holds of every policy: the contract, exact densities, streams, layout of steps, and the guard."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from robot_policies import made

from mmalign.errors import UserError
from mmalign.guards.modality_used import check_modality_used
from mmalign.modalities.robot import RobotAdapter, RobotOptions
from mmalign.objectives.kl import gaussian_kl
from mmalign.protocols import Borrows, Conditioned, Configurable, Likelihood, Samples, Shows
from mmalign.rng import generator
from mmalign.testing.conformance import modality_suite
from mmalign.worlds import sweep

PROMPTS = sweep.rows("train", 4)
EXPERTS = sweep.rows("train", 3, kind="caption")


def test_conformance(kind: dict[str, Any]) -> None:
    adapter, model = made(**kind)
    ran = modality_suite(adapter, EXPERTS, model, max_steps=12)
    assert {"sampling", "temperature", "save"} <= set(ran)
    for capability in (Likelihood, Samples, Conditioned, Borrows, Configurable, Shows):
        assert isinstance(adapter, capability)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_recomputed_density_is_the_samplers(kind: dict[str, Any], temperature: float) -> None:
    adapter, model = made(**kind)
    rollout = adapter.sample(model, PROMPTS, 2, generator(0, "x"), temperature=temperature, max_steps=24)
    scored = adapter.logp(model, adapter.collate(rollout.rows), temperature=temperature)
    assert torch.equal(scored.mask, rollout.mask) and not scored.surrogate
    assert float((scored.values - rollout.logp)[rollout.mask].abs().max()) < 1e-5


def test_a_gaussian_density_is_scipys() -> None:
    from scipy.stats import norm

    adapter, model = made(action_std=0.4)
    rollout = adapter.sample(model, PROMPTS[:1], 1, generator(1, "x"), max_steps=5)
    steps = rollout.rows[0].steps
    with torch.no_grad():
        mean = model.head.mean(model.trunk(steps.observations[:-1])[0]).numpy()
    expected = norm.logpdf(steps.drawn.numpy(), mean, 0.4).sum(-1)
    assert np.allclose(rollout.logp[0].numpy(), expected, atol=1e-5)


def test_token_probabilities_sum_to_one() -> None:
    """Over all token pairs of two numbers, each read with the tokens before it."""
    adapter, model = made(policy="tokens", bins=4)
    del adapter
    torch.nn.init.normal_(model.head.before)
    every = torch.cartesian_prod(*[torch.arange(4)] * 3)
    features = torch.randn(1, 16).expand(len(every), -1)
    assert float(model.head.score(features, every, 1.0).logp.exp().sum()) == pytest.approx(1.0, abs=1e-5)


def test_exact_kl_is_torchs() -> None:
    adapter, model = made()
    _, other = made(seed=1)
    rollout = adapter.sample(model, PROMPTS, 1, generator(0, "x"), max_steps=6)
    batch = adapter.collate(rollout.rows)
    a, b = (adapter.logp(policy, batch) for policy in (model, other))
    assert a.moments is not None and b.moments is not None
    found = gaussian_kl(a.moments[0], b.moments[0], a.moments[1], a.mask)
    p, q = (torch.distributions.Normal(one.moments[0], one.moments[1][..., None]) for one in (a, b))
    expected = torch.distributions.kl_divergence(p, q).sum(-1)
    assert torch.allclose(found[a.mask], expected[a.mask], atol=1e-5)
    assert made(learn_std=True)[0] and adapter.logp(made(learn_std=True)[1], batch).moments is None


def test_denoising_posterior_is_the_schedulers() -> None:
    """The step's mean and variance are DDPM's for the predicted clean chunk (diffusers' scheduler)."""
    from diffusers import DDPMScheduler

    _, model = made(policy="diffusion", chunk=2, denoise_steps=5, min_std=1e-6)
    head = model.head
    bar = head.bar.double()
    betas = (1 - bar / torch.cat([torch.ones(1).double(), bar[:-1]])).tolist()
    scheduler = DDPMScheduler(5, trained_betas=betas, prediction_type="sample", clip_sample=False)
    features, value = torch.randn(1, 16), torch.randn(1, head.dims)
    for level in (4, 2):
        clean = head._clean(features, value, torch.tensor([level]))
        mean, std = head._step(features, value, torch.tensor([level]), 1.0)
        known = scheduler._get_variance(level) ** 0.5
        assert float(std) == pytest.approx(float(known), abs=1e-5)
        stepped = scheduler.step(clean, level, value, generator=torch.Generator().manual_seed(0)).prev_sample
        noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(0))
        assert torch.allclose(mean + std * noise, stepped, atol=1e-4)


def test_two_level_index() -> None:
    """A chunk's reward is paid on its last denoising step; the mask covers whole decisions."""
    adapter, model = made(policy="diffusion", chunk=3, denoise_steps=4)
    rollout = adapter.sample(model, PROMPTS[:2], 1, generator(0, "x"), max_steps=12)
    row = rollout.rows[0]
    assert rollout.mask.shape == (2, 12) and len(row.completion) == 9
    assert row.steps.earned.tolist() == [3, 3, 3, 7, 7, 7, 11, 11, 11]
    assert row.completion.truncated and not rollout.finished.any()


def test_a_row_has_its_own_stream() -> None:
    adapter, model = made()
    streams = [generator(0, row.id) for row in PROMPTS]
    together = adapter.sample(model, PROMPTS, 1, streams, max_steps=10)
    alone = adapter.sample(model, PROMPTS[2:3], 1, [generator(0, PROMPTS[2].id)], max_steps=10)
    assert torch.allclose(together.rows[2].steps.drawn, alone.rows[0].steps.drawn, atol=1e-6)


def test_hidden_states_stand_before_and_after_each_step() -> None:
    adapter, model = made()
    rows = [EXPERTS[0], replace(EXPERTS[1], completion=EXPERTS[1].completion.cut(0, 5))]
    hidden = adapter.logp(model, adapter.collate(rows), hidden=True).hidden
    assert hidden is not None
    for k, row in enumerate(rows):
        seen = model.trunk(torch.from_numpy(row.completion.observations))[1]
        assert torch.allclose(hidden[k, : len(seen)], seen, atol=1e-6)


def test_sides_of_a_pair_share_their_noise() -> None:
    """The surrogate of one episode is the same beside any other, and the same in a longer one as far as both go."""
    adapter, model = made(policy="diffusion")
    whole = [row.completion for row in EXPERTS]
    short = [replace(row, completion=e.cut(0, 12)) for row, e in zip(EXPERTS, whole, strict=True)]
    scores = [adapter.logp(model, adapter.collate(rows), generator(0, "x")) for rows in (EXPERTS, short)]
    assert scores[0].surrogate
    chunk = adapter.options.chunk
    assert torch.allclose(scores[0].values[:, : 12 - chunk], scores[1].values[:, : 12 - chunk], atol=1e-6)
    other = adapter.logp(model, adapter.collate(short), generator(1, "x"))
    assert not torch.allclose(scores[1].values, other.values)


def test_the_guard_stops_a_policy_that_sees_nothing() -> None:
    adapter, model = made()
    check_modality_used(adapter, model, EXPERTS)
    with torch.no_grad():
        model.trunk.net[0].weight.zero_()
    with pytest.raises(UserError, match="ignores its conditions"):
        check_modality_used(adapter, model, EXPERTS)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    adapter, model = made()
    adapter.save(model, tmp_path / "policy")
    with pytest.raises(UserError, match="observe"):
        RobotAdapter(RobotOptions(observe="pixels")).load(str(tmp_path / "policy"))
    with pytest.raises(UserError, match="robot:SEED"):
        adapter.load(str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="chunk"):
        adapter.configure({"chunks": 3})
    with pytest.raises(UserError, match="gymnasium:ID"):
        adapter.configure({"environment": "gym:Pendulum-v1"})
    with pytest.raises(UserError, match="nothing to score"):
        adapter.collate(PROMPTS)


def test_an_embodiment_can_be_put_in_the_place_of_a_rows_own() -> None:
    adapter, model = made(embodiment="long")
    rollout = adapter.sample(model, PROMPTS, 1, generator(0, "x"), max_steps=3)
    assert {row.completion.start["embodiment"] for row in rollout.rows} == {"long"}
    assert adapter.show(rollout.rows[0])["images"]
