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
    "NETWORK",
    "TABLES",
    "WEIGHTED",
    "best_of_4",
    "claim",
    "guided",
    "sft",
    "trained",
]

EXACT, NETWORK = "drawings@T1/bound/f1", "drawings@T1/bound/f1/network"
TABLES = {
    "bound F1": EXACT,
    "by network": NETWORK,
    "exact": "drawings@T1/exact",
    "relation": "drawings@T1/relation",
    "KL nats": "measured/kl",
    "JPEG kB": "measured/jpeg",
    "diversity": "measured/diversity",
}
EQUAL = ("seed", "modality", "model", "data", "sft", "evaluate", "guard")
PICTURES, BATCH = 64, 64
"""Pictures per step of the online arms, and per step of supervised training."""

WEIGHTED = {"weighting": "min_snr", "snr_gamma": 6.0}
"""Denoising errors about as the shipped pipeline was trained on them: ``min(snr, 6)`` times the picture's error."""

_BASE: dict[str, Any] = {
    "model.options": WEIGHTED,
    "modality": "diffusion",
    "guard.enabled": False,
    "data.world": "drawings",
    "data.n_train": 512,
    "sft.per_device_train_batch_size": BATCH,
    "sft.learning_rate": 1e-4,
    "reward.name": "drawings",
    "evaluate.tasks": ["drawings"],
    "evaluate.n": 96,
    "evaluate.temperatures": [1.0],
    "evaluate.batch_size": 96,
    "evaluate.max_new_tokens": 10,
}
DDPO: dict[str, Any] = {
    "grpo.max_steps": 8,
    "grpo.rollout_batch_size": 8,
    "grpo.num_generations": PICTURES // 8,
    "grpo.per_device_train_batch_size": PICTURES,
    "grpo.num_minibatches": 2,
    "grpo.learning_rate": 1e-4,
    "grpo.warmup_ratio": 0.0,
    "grpo.kl_coef": 0.0,
    "grpo.kl_estimator": "exact",
    "grpo.kl_budget": 30.0,
    "grpo.kl_stop": 1e9,
    "grpo.dense_advantages": False,
    "grpo.max_completion_length": 10,
    "grpo.save_steps": 1000,
    "model.options": {**WEIGHTED, "train_fraction": 0.34},
}
"""DDPO as a setting of stage ``grpo``: no KL, the clip derived from the mean reduction, 3 of 9 steps trained.  No arm
is updated while those are 30 nats from its start, so that controls are compared at about one distance."""


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


def guided(scale: float = 1.5) -> Arm:
    """No training: classifier-free guidance."""
    changes = {"evaluate.options": {"guidance_scale": scale}}
    text = f"no training: guidance {scale:g}"
    return Arm("guided", changes, kind="baseline", stages=("evaluate",), weight=0.2, text=text)


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
