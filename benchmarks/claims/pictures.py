"""What the claims about diffusion methods share: world, arms, controls, sizes.  See docs/claims/diffusion.md."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmalign.benchmarks.claims.pictures_measured import measure
from mmalign.claims.baselines import best_of_n
from mmalign.claims.definition import Arm, Claim, Statement

__all__ = [
    "DDPO",
    "EXACT",
    "EXACT_NETWORK",
    "F1",
    "F1_NETWORK",
    "TABLES",
    "WEIGHTED",
    "best_of_4",
    "claim",
    "guided",
    "sft",
    "trained",
]

F1, F1_NETWORK = "drawings@T1/bound/f1", "drawings@T1/bound/f1/network"
EXACT, EXACT_NETWORK = "drawings@T1/exact", "drawings@T1/exact/network"
TABLES = {
    "exact": EXACT,
    "by network": EXACT_NETWORK,
    "bound F1": F1,
    "F1 by network": F1_NETWORK,
    "relation": "drawings@T1/relation",
    "KL nats": "measured/kl",
    "JPEG kB": "measured/jpeg",
    "diversity": "measured/diversity",
}
EQUAL = ("seed", "modality", "model", "data", "sft", "evaluate", "guard")
PICTURES, BATCH = 256, 64
"""Pictures per step of the online arms, and per step of supervised training."""

WEIGHTED = {"weighting": "sample"}
"""Denoising errors in units of the picture, at every noise level alike.  Weighted by the signal-to-noise ratio, as the
pipeline was trained, levels at which the layout can already be seen outweigh those at which it is decided."""

LORA: dict[str, Any] = {
    "model.lora_r": 16,
    "model.lora_alpha": 32,
    "model.lora_target_modules": ("to_v", "to_out.0"),
}
"""What trains in every arm, as the papers train LoRA on attention.  Scores of the last layer's weights are nearly all
noise: over 512 pictures its gradients of two halves had a cosine of -.09, those of the values read from prompts .42."""

_BASE: dict[str, Any] = {
    **LORA,
    "model.options": WEIGHTED,
    "modality": "diffusion",
    "guard.enabled": False,
    "data.world": "drawings",
    "data.n_train": 1024,
    "sft.per_device_train_batch_size": BATCH,
    "sft.learning_rate": 1e-3,
    "reward.name": "drawings",
    "evaluate.tasks": ["drawings"],
    "evaluate.n": 150,
    "evaluate.temperatures": [1.0],
    "evaluate.batch_size": 150,
    "evaluate.max_new_tokens": 10,
}
DDPO: dict[str, Any] = {
    "grpo.max_steps": 30,
    "grpo.rollout_batch_size": PICTURES // 8,
    "grpo.num_generations": 8,
    "grpo.per_device_train_batch_size": 64,
    "grpo.num_minibatches": 1,
    "grpo.learning_rate": 1e-3,
    "grpo.warmup_ratio": 0.1,
    "grpo.scale_rewards": "batch",
    "grpo.kl_coef": 0.0,
    "grpo.kl_estimator": "exact",
    "grpo.kl_budget": 3.0,
    "grpo.kl_stop": 1e9,
    "grpo.dense_advantages": False,
    "grpo.max_completion_length": 10,
    "grpo.save_steps": 1000,
    "model.options": {**WEIGHTED, "train_until": 0.5},
}
"""DDPO as a setting of stage ``grpo``: no KL, a clip derived from the mean reduction, the first 5 of 10 steps trained:
they decide the layout.  No arm is updated while those are 3 nats from its start, so that no control runs away."""


def _start(clip: bool) -> Arm:
    """The shipped pipeline as it is, at the sampler's own settings."""
    return Arm(
        "start",
        kind="start",
        stages=("evaluate",),
        job=measure(clip=clip),
        weight=0.2,
        text="the start, not trained further",
    )


def guided(scale: float = 1.5, name: str = "guided") -> Arm:
    """No training: classifier-free guidance (1 is none)."""
    changes = {"evaluate.options": {"guidance_scale": scale}}
    text = f"no training: guidance {scale:g}"
    return Arm(name, changes, kind="baseline", stages=("evaluate",), weight=0.2, text=text)


def best_of_4() -> Arm:
    """No training: the best of four pictures by the reward."""
    text = "no training: the best of 4 pictures of the start by the same reward"
    return Arm("best_of_4", kind="baseline", stages=(), job=best_of_n(4), weight=0.4, text=text)


def sft(clip: bool = False) -> Arm:
    """Supervised training on real pictures for about as many passes of the network as the treated arm."""
    text = "control: supervised training on real pictures, about equal compute"
    stages, job = ("sft", "evaluate"), measure("sft", clip=clip)
    return Arm("sft", {"sft.save_steps": 1000}, kind="baseline", stages=stages, job=job, text=text)


def trained(
    name: str, text: str, stage: str, changes: Mapping[str, Any], *, kind: str = "train", clip: bool = False
) -> Arm:
    """An arm that trains from the shipped pipeline, is evaluated, and measured against it."""
    overrides = {"evaluate.include_start": False, **changes}
    job = measure(stage, clip=clip)
    return Arm(name, overrides, kind=kind, stages=(stage, "evaluate"), job=job, text=text)  # type: ignore[arg-type]


def claim(
    name: str,
    title: str,
    source: str,
    arms: tuple[Arm, ...],
    statements: tuple[Statement, ...],
    *,
    sft_steps: int,
    quick: Mapping[str, Any],
    changes: Mapping[str, Any] | None = None,
    equal: tuple[str, ...] = (),
    vary: tuple[str, ...] = (),
    curves: tuple[str, ...] = (),
    clip: bool = False,
) -> Claim:
    """A claim on the drawings world's shipped pipeline, three seeds; ``sft_steps`` of 64 pictures equal its compute."""
    return Claim(
        name=name,
        title=title,
        source=source,
        arms=(_start(clip), *arms),
        statements=statements,
        recipe="toy",
        overrides={**_BASE, "sft.max_steps": sft_steps, **(changes or {})},
        quick={"evaluate.n": 8, "sft.max_steps": 2, "sft.per_device_train_batch_size": 4, **quick},
        starts={"drawer": {"model.model_name_or_path": "embedded"}},
        equal=(*EQUAL, *equal),
        vary=vary,
        seeds=3,
        curves=curves,
        tables={**TABLES, "CLIP": "measured/clip"} if clip else TABLES,
        recorded=Path(__file__).parent / "verdicts" / f"{name}.json",
    )
