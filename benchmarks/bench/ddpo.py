"""A DDPO step on Stable Diffusion, sampling included: mmalign against a plain diffusers loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmalign import registry
from mmalign.bench.definition import Bench, Case, Comparison, Step
from mmalign.benchmarks.bench.ddpo_peer import PlainDDPO, brightness
from mmalign.benchmarks.bench.diffusers_models import Size, stable_diffusion
from mmalign.benchmarks.bench.gradients import flat_gradient
from mmalign.config.policy import GRPOConfig
from mmalign.engine.experience import Experience
from mmalign.engine.update import policy_update_loss
from mmalign.objectives.advantage import group_advantage
from mmalign.rng import generator
from mmalign.types import Row, Speed

__all__ = ["BENCH", "DDPOSetting"]

PROMPTS = ("a red circle", "two blue squares", "a green cross left of a red circle", "a yellow square")
VARIANTS: Mapping[str, str] = {
    "plain": "diffusers' scheduler and modules; prompts encoded where needed, old log-densities recomputed",
    "plain+stored": "the same with the sampler's log-densities and embeddings stored (as ddpo-pytorch does)",
    "mmalign-plain": "mmalign with every switch off",
    "mmalign": "mmalign with every switch on",
}
SAMPLING: Mapping[str, str] = {
    "pipeline": "StableDiffusionPipeline.__call__ with DDIM, eta 0",
    "mmalign-sample": "mmalign at temperature 0, latents and log-densities recorded",
}


@dataclass(frozen=True)
class DDPOSetting:
    """A pipeline and prompts; calling it builds the named variants over equal weights.

    Args:
        size: widths of the pipeline.
        steps: denoising steps.
        n: pictures per prompt.
        micro: pictures per backward pass of mmalign; the plain loops take the whole batch step by step.
    """

    size: Size
    steps: int = 10
    n: int = 4
    micro: int = 4
    guidance: float = 5.0

    def __call__(self, names: Sequence[str]) -> Mapping[str, Step]:
        """One step per name."""
        return {name: self._step(name) for name in names}

    def _step(self, name: str) -> Step:
        if name.startswith("plain") or name == "pipeline":
            peer = PlainDDPO(
                stable_diffusion(self.size),
                PROMPTS,
                self.n,
                self.steps,
                self.guidance,
                stored="stored" in name,
            )
            if name == "pipeline":
                return Step(lambda _: peer.draw_with_pipeline(), peer.pictures)
            return Step(lambda _: peer.step(), peer.outcome)
        ours = _Ours(
            self, Speed(cache_towers=False, merge_lora=False) if name == "mmalign-plain" else Speed()
        )
        if name == "mmalign-sample":
            return Step(lambda _: ours.sample(0.0), ours.pictures)
        return Step(lambda _: ours.step(), ours.outcome)


class _Ours:
    """Our adapter, the core's loss, and the same reward and advantages."""

    def __init__(self, setting: DDPOSetting, speed: Speed) -> None:
        self._setting = setting
        self._adapter: Any = registry.load("modalities", "diffusion")(speed=speed)
        self._adapter.configure(
            {"num_inference_steps": setting.steps, "guidance_scale": setting.guidance, "reduction": "mean"}
        )
        self._model = self._adapter.adopt(stable_diffusion(setting.size))
        self._rows = [Row(id=prompt, prompt=prompt) for prompt in PROMPTS]
        self._cfg = GRPOConfig(
            num_generations=setting.n, cliprange=1e-4, kl_coef=0.0, max_completion_length=setting.steps
        )
        self._last: dict[str, Tensor] = {}

    def sample(self, temperature: float = 1.0) -> Any:
        """Draw the pictures."""
        self._rollout = self._adapter.sample(
            self._model, self._rows, self._setting.n, generator(7), temperature=temperature
        )
        return self._rollout

    def pictures(self) -> Mapping[str, Tensor]:
        """The brightness of every picture."""
        return {"brightness": brightness([row.completion for row in self._rollout.rows])}

    def step(self) -> None:
        """Sample, reward, one policy gradient."""
        rollout = self.sample()
        reward = brightness([row.completion for row in rollout.rows])
        advantages = group_advantage(reward, rollout.group, "group")[:, None] * rollout.mask
        zero = torch.zeros_like(rollout.logp)
        data = Experience(rollout.rows, rollout.mask, rollout.logp, zero, zero, advantages, zero)
        self._model.zero_grad(set_to_none=True)
        size = len(rollout)
        for start in range(0, size, self._setting.micro):
            part = range(start, min(start + self._setting.micro, size))
            loss = policy_update_loss(self._adapter, self._model, None, data, part, self._cfg, 0.0)
            (loss.value * len(part) / size).backward()
        self._last = {"logp": rollout.logp, "reward": reward}

    def outcome(self) -> Mapping[str, Tensor]:
        """Log-densities, rewards and the gradient."""
        return {**self._last, "gradient": flat_gradient(self._model)}


def _case(name: str, size: Size, *, quick: bool = False, sampling: bool = False, **setting: Any) -> Case:
    steps, n = setting.get("steps", 10), setting.get("n", 4)
    text = f"{size.text}; {len(PROMPTS)} prompts x {n} pictures, {steps} steps, guidance 5"
    if sampling:
        ratios = (Comparison("pipeline", "mmalign-sample"),)
        return Case(
            name,
            text,
            SAMPLING,
            DDPOSetting(size, **setting),
            ratios,
            1e-4,
            rounds=3 if quick else 5,
            quick=quick,
        )
    ratios = (
        Comparison("plain", "mmalign"),
        Comparison("plain+stored", "mmalign"),
        Comparison("plain+stored", "mmalign-plain"),
        *(() if quick else (Comparison("plain", "mmalign", memory=True),)),
    )
    return Case(
        name,
        text,
        VARIANTS,
        DDPOSetting(size, **setting),
        ratios,
        1e-4,
        rounds=3 if quick else 5,
        quick=quick,
    )


BENCH = Bench(
    name="ddpo",
    title="DDPO step and sampling on Stable Diffusion: mmalign against a plain diffusers loop",
    cases=(
        _case("quick", Size(channels=(16, 32), text_width=32, latent=8), steps=4, n=2, quick=True),
        _case("step", Size()),
        _case("step-text", Size(text_layers=12, text_width=256)),
        _case("sample", Size(), sampling=True),
    ),
    headline=("step", "plain / mmalign"),
    quick_headline=("quick", "plain / mmalign"),
    needs={"diffusers": 'pip install "mmalign[diffusion]"'},
    notes=(
        "log-densities, rewards and gradients are compared on one drawing of the noise, to 1e-4: the plain loop takes "
        "one denoising step at a time and mmalign all steps of a few pictures at once, which rounds in another order",
        "no optimiser step on either side; one thread",
    ),
)
