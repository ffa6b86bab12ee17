"""Our steps are the owner library's: DDIM's mean and variance, Euler bit for bit, and the SDE's marginals."""

from __future__ import annotations

from typing import Any

import diffusers as df
import pytest
import torch

from mmalign.errors import UserError
from mmalign.modalities.diffusion.flow_schedules import ConvertedFlow, FlowSchedule
from mmalign.modalities.diffusion.options import DiffusionOptions
from mmalign.modalities.diffusion.schedules import DDIMSchedule
from mmalign.modalities.diffusion.steps import gaussian_entropy, gaussian_logp

SCHEDULES: dict[str, dict[str, Any]] = {
    "stable diffusion": {"beta_schedule": "scaled_linear", "steps_offset": 1, "set_alpha_to_one": False},
    "linear, final alpha one": {"beta_schedule": "linear"},
    "trailing": {"timestep_spacing": "trailing"},
    "linspace": {"timestep_spacing": "linspace"},
    "zero terminal SNR": {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "beta_end": 0.012},
    "clipped": {"clip_sample": True, "clip_sample_range": 0.8},
}


def inputs(n: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(n, 3, 4, 4, generator=rng), torch.randn(n, 3, 4, 4, generator=rng)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", list(SCHEDULES))
def test_a_ddim_step_is_the_schedulers(name: str, kind: str, eta: float) -> None:
    settings = {"clip_sample": False, "beta_end": 0.02, **SCHEDULES[name], "prediction_type": kind}
    scheduler = df.DDIMScheduler(**settings)
    if name == "zero terminal SNR" and kind == "epsilon":
        with pytest.raises(UserError, match="pure noise"):
            DDIMSchedule(scheduler.config)
        return
    ours, options = DDIMSchedule(scheduler.config), DiffusionOptions(eta=eta)
    grid = ours.grid(8, 0)
    scheduler.set_timesteps(8)
    assert grid.times.tolist() == scheduler.timesteps.tolist()
    x, out = inputs()
    for place, time in enumerate(scheduler.timesteps):
        mean, std = ours.step(x, out, grid, torch.full((3,), place), options, 1.0)
        zero, one = (
            scheduler.step(out, int(time), x, eta=eta, variance_noise=torch.full_like(x, noise)).prev_sample
            for noise in (0.0, 1.0)
        )
        if not torch.isfinite(
            zero
        ).all():  # at zero terminal SNR and eta 1 theirs takes the root of a rounding error
            assert name == "zero terminal SNR" and eta == 1.0 and place == 0
            continue
        torch.testing.assert_close(mean, zero, atol=2e-6, rtol=2e-6)
        torch.testing.assert_close(std.reshape(-1, 1, 1, 1).expand_as(x), one - zero, atol=2e-6, rtol=1e-4)


def test_temperature_multiplies_the_noise_and_zero_is_the_deterministic_sampler() -> None:
    ours = DDIMSchedule(df.DDIMScheduler(clip_sample=False).config)
    grid, (x, out), index = ours.grid(8, 0), inputs(), torch.tensor([0, 3, 6])
    half = ours.step(x, out, grid, index, DiffusionOptions(eta=1.0), 0.5)
    assert torch.equal(half[0], ours.step(x, out, grid, index, DiffusionOptions(eta=0.5), 1.0)[0])
    mean, std = ours.step(x, out, grid, index, DiffusionOptions(eta=1.0), 0.0)
    assert not std.any()
    assert torch.equal(mean, ours.step(x, out, grid, index, DiffusionOptions(eta=0.0), 1.0)[0])


@pytest.mark.parametrize("options", [{"sampler": "ode"}, {"sde_a": 0.0}])
@pytest.mark.parametrize("settings", [{"shift": 3.0}, {}, {"use_dynamic_shifting": True}])
def test_the_flow_without_noise_is_euler_bit_for_bit(
    options: dict[str, Any], settings: dict[str, Any]
) -> None:
    scheduler = df.FlowMatchEulerDiscreteScheduler(**settings)
    ours = FlowSchedule(scheduler.config)
    grid = ours.grid(6, 64)
    shift = (
        {"mu": 0.5 + (64 - 256) * (1.15 - 0.5) / (4096 - 256)} if settings.get("use_dynamic_shifting") else {}
    )
    scheduler.set_timesteps(6, **shift)
    assert torch.equal(grid.times, scheduler.timesteps)
    x, out = inputs()
    for place, time in enumerate(scheduler.timesteps):
        mean, std = ours.step(x, out, grid, torch.full((3,), place), DiffusionOptions(**options), 1.0)
        assert torch.equal(mean, scheduler.step(out, time, x).prev_sample)
        assert not std.any()


@pytest.mark.parametrize("a", [0.0, 0.3, 0.7])
def test_the_sde_has_the_marginals_of_the_ode(a: float) -> None:
    """On pictures ~ N(m, c^2) the velocity is affine, so mean and variance follow exactly, without sampling."""
    m, c = 0.8, 0.5
    ours, options = FlowSchedule(df.FlowMatchEulerDiscreteScheduler().config), DiffusionOptions(sde_a=a)
    grid = ours.grid(500, 0)
    mean, variance = 0.0, 1.0
    for place in range(500):
        s = float(grid.level[place])
        spread = (1 - s) ** 2 * c**2 + s**2
        x = torch.tensor([0.0, 1.0])
        gap = x - (1 - s) * m
        velocity = s / spread * gap - (m + (1 - s) * c**2 / spread * gap)
        at, std = ours.step(x, velocity, grid, torch.full((2,), place), options, 1.0)
        slope = float(at[1] - at[0])
        mean, variance = slope * mean + float(at[0]), slope**2 * variance + float(std[0]) ** 2
        assert (float(std[0]) > 0) == (a > 0 and place < 499)
    assert abs(mean - m) < 1e-4
    assert abs(variance - c**2) < 0.002


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_a_noise_model_seen_as_a_flow_takes_ddims_deterministic_steps(kind: str) -> None:
    """One step of either from one state, in the coordinates of the noise schedule."""
    schedule = DDIMSchedule(
        df.DDIMScheduler(prediction_type=kind, clip_sample=False, timestep_spacing="trailing").config
    )
    flow, index, (x, out) = ConvertedFlow(schedule), torch.tensor([0, 4, 7]), inputs()
    own, grid = schedule.grid(8, 0), flow.grid(8, 0)
    want, _ = schedule.step(x, out, own, index, DiffusionOptions(eta=0.0), 1.0)
    size = ((1 - grid.level) ** 2 + grid.level**2).sqrt()[index].reshape(-1, 1, 1, 1)
    torch.testing.assert_close(flow.network_input(x * size, grid.level[index]), x)
    got, std = flow.step(x * size, out, grid, index, DiffusionOptions(sampler="ode"), 1.0)
    after = ((1 - grid.level_next) ** 2 + grid.level_next**2).sqrt()[index].reshape(-1, 1, 1, 1)
    torch.testing.assert_close(got / after, want, atol=2e-4, rtol=1e-4)  # epsilon over a signal of 6e-3
    assert not std.any() and not float(flow.noise_level(grid, DiffusionOptions(sampler="sde"), 1.0)[-1])


def test_density_and_entropy_are_torchs() -> None:
    value, mean = inputs(2)
    std = torch.tensor([0.3, 2.0])
    normal = torch.distributions.Normal(mean, std.reshape(-1, 1, 1, 1).expand_as(mean))
    for reduction in ("sum", "mean"):
        want = getattr(normal.log_prob(value).flatten(1), reduction)(-1)
        torch.testing.assert_close(gaussian_logp(value, mean, std, reduction), want)
        want = getattr(normal.entropy().flatten(1), reduction)(-1)
        torch.testing.assert_close(gaussian_entropy(std, 48, reduction), want)


def test_noised_pictures_are_the_schedulers() -> None:
    clean, noise = inputs()
    scheduler = df.DDIMScheduler(prediction_type="v_prediction", clip_sample=False)
    times = torch.tensor([10, 500, 990])
    ours = DDIMSchedule(scheduler.config)
    x, target = ours.noised(clean, noise, ours.alphas[times])
    torch.testing.assert_close(x, scheduler.add_noise(clean, noise, times))
    torch.testing.assert_close(target, scheduler.get_velocity(clean, noise, times))
    torch.testing.assert_close(ours.clean(x, target, ours.alphas[times]), clean, atol=1e-4, rtol=1e-4)
    flow = FlowSchedule(df.FlowMatchEulerDiscreteScheduler().config)
    level = torch.tensor([0.1, 0.5, 0.9])
    x, target = flow.noised(clean, noise, level)
    torch.testing.assert_close(flow.clean(x, target, level), clean, atol=1e-5, rtol=1e-5)
