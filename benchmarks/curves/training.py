"""Training every arm on the same pairs, in the same batches, from the same weights; and measuring it held out."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmalign import registry
from mmalign.benchmarks.curves.arms import Arm
from mmalign.data.jsonl import read_json, write_json
from mmalign.data.pairs import Pair, pairs_from_rows, sides_of
from mmalign.engine.loop import LoopState
from mmalign.engine.offline import OfflineTrainer
from mmalign.engine.optim import make_optimizer
from mmalign.engine.pairs import kto_objective, pair_objective, score_pairs, score_rows
from mmalign.engine.reference import Reference, cached_reference
from mmalign.engine.step import Loss
from mmalign.evals.run import evaluate
from mmalign.objectives.masked import masked_sum
from mmalign.objectives.unpaired import bco_loss, bco_shift
from mmalign.rng import generator, numpy_generator
from mmalign.stats.intervals import wilson

__all__ = ["Plan", "Setting", "open_setting", "run_arm"]

PairObjective = Callable[[Sequence[Pair], torch.Generator], Loss]


@dataclass(frozen=True)
class Plan:
    """What all arms have in common.

    Args:
        steps: optimiser steps of AdamW with warm-up over the first tenth and a cosine.
        batch_size: pairs per step; the unpaired kinds see both answers of each.
        learning_rate: peak rate, all weights train.
        n_heldout: validation pairs to measure on.
        n_pictures: validation pictures to describe greedily; 0 for none.
        seed: of the pairs, their order and the shuffled control.
        modality, world, start, task: the adapter, and where pairs, weights and the captioning task come from.
    """

    steps: int = 30
    batch_size: int = 8
    learning_rate: float = 1e-4
    n_heldout: int = 128
    n_pictures: int = 100
    seed: int = 0
    modality: str = "vision"
    world: str = "scenes"
    start: int = 0
    task: str = "scenes-captions"


@dataclass(frozen=True)
class Setting:
    """The start model with its reference log-probabilities, and the pairs."""

    plan: Plan
    folder: Path
    adapter: Any
    model: nn.Module
    reference: Any
    pairs: Sequence[Pair]
    heldout: Sequence[Pair]


def open_setting(plan: Plan, folder: Path) -> Setting:
    """Load the start model, draw the pairs and score them once under the start model."""
    world = registry.load("worlds", plan.world)
    adapter = registry.load("modalities", plan.modality)()
    model = adapter.load(str(world.BASES[plan.start])).eval()
    pairs = pairs_from_rows(world.rows("train", plan.steps * plan.batch_size, plan.seed, "preference"))
    heldout = pairs_from_rows(world.rows("validation", plan.n_heldout, plan.seed, "preference"))
    reference = cached_reference(folder / "cache", adapter, model)
    reference.precompute([*sides_of(pairs), *sides_of(heldout)], 2 * plan.batch_size)
    return Setting(plan, folder, adapter, model, reference, pairs, heldout)


def run_arm(setting: Setting, arm: Arm | None) -> dict[str, Any]:
    """Train an arm (``None``: the start model itself) and return its record; a finished one is read back."""
    name = "start" if arm is None else arm.name
    file = setting.folder / "arms" / name / "arm.json"
    if file.is_file():
        record: dict[str, Any] = read_json(file)
        return record
    began, model = time.process_time(), copy.deepcopy(setting.model)
    curve = [] if arm is None else _train(setting, arm, model)
    record = {
        "name": name,
        "note": "not trained" if arm is None else arm.note,
        "panel": None if arm is None else arm.panel,
        "curve": curve,
        "heldout": _heldout(setting, model),
        "captions": _captions(setting, model, file.parent),
        "cpu_seconds": round(time.process_time() - began, 1),
    }
    write_json(file, record)
    return record


def _train(setting: Setting, arm: Arm, model: nn.Module) -> list[dict[str, float]]:
    plan, rng = setting.plan, numpy_generator(setting.plan.seed, "curves", "shuffled")
    pairs = list(setting.pairs)
    if arm.shuffled:
        flips = rng.random(len(pairs)) < 0.5
        pairs = [Pair(p.rejected, p.chosen) if f else p for p, f in zip(pairs, flips, strict=True)]
    optimizer = make_optimizer({"policy": model.parameters()}, {"policy": plan.learning_rate})
    trainer = OfflineTrainer(
        _objective(setting, arm, model),
        pairs,
        LoopState({"policy": model}, optimizer),
        "dpo",
        plan.seed,
        plan.steps,
        plan.batch_size,
        plan.batch_size,
        warmup_ratio=0.1,
    )
    return [_point(trainer.step(step), arm.settings.beta) for step in range(1, plan.steps + 1)]


def _objective(setting: Setting, arm: Arm, model: nn.Module) -> PairObjective:
    if arm.kind == "pair":
        # Reference-free losses get the reference too: it only serves the metrics.
        return pair_objective(setting.adapter, model, setting.reference, arm.settings)
    if arm.kind == "bco":
        return _bco(setting, model, arm.settings.beta)
    reference = Reference(setting.adapter, setting.model, "copy") if arm.kind == "kto" else setting.reference
    judged = kto_objective(setting.adapter, model, reference, beta=arm.settings.beta, loss_type=arm.kind)

    def loss_fn(pairs: Sequence[Pair], rng: torch.Generator) -> Loss:
        # All good answers, then all bad ones: neighbours never answer the same prompt.
        return judged([(p.chosen, True) for p in pairs] + [(p.rejected, False) for p in pairs], rng)

    return loss_fn


def _bco(setting: Setting, model: nn.Module, beta: float) -> PairObjective:
    shift: float | None = None

    def loss_fn(pairs: Sequence[Pair], rng: torch.Generator) -> Loss:
        nonlocal shift
        rows = [p.chosen for p in pairs] + [p.rejected for p in pairs]
        logp, ref, mask = score_rows(setting.adapter, model, setting.reference, rows, rng)
        assert ref is not None
        rewards = beta * masked_sum((logp - ref).detach(), mask, 1)
        shift = bco_shift(rewards[: len(pairs)], rewards[len(pairs) :], shift)
        good = torch.arange(len(rows)) < len(pairs)
        value, metrics = bco_loss(logp, ref, mask, good, shift, beta)
        return Loss(value, float(len(rows)), metrics)

    return loss_fn


def _point(metrics: Mapping[str, float], beta: float) -> dict[str, float]:
    """One step of the curve: the loss, and nats per answer gained over the start model on the step's pairs."""
    chosen, rejected = metrics["rewards/chosen"] / beta, metrics["rewards/rejected"] / beta
    return {"loss": metrics["loss"], "chosen": chosen, "rejected": rejected, "margin": chosen - rejected}


@torch.no_grad()
def _heldout(setting: Setting, model: nn.Module) -> dict[str, Any]:
    """Gains in nats per answer over the start model on validation pairs, and how often the right one gains more."""
    gains: list[Tensor] = []
    logps: list[Tensor] = []
    size = setting.plan.batch_size
    for at in range(0, len(setting.heldout), size):
        chunk = setting.heldout[at : at + size]
        both = score_pairs(
            setting.adapter, model, setting.reference, chunk, generator(setting.plan.seed, "heldout", at)
        )
        gains.append(torch.stack([_summed(logp, ref, mask) for logp, ref, mask in both]))
        logps.append(torch.stack([masked_sum(logp, mask, 1) for logp, _, mask in both]))
    gained, logp = torch.cat(gains, 1), torch.cat(logps, 1)
    margin = gained[0] - gained[1]
    right = wilson(int((margin > 0).sum()), len(margin))
    likelier = wilson(int((logp[0] > logp[1]).sum()), len(margin))
    return {
        "n": len(margin),
        "accuracy": right.as_dict(),
        "likelier": likelier.as_dict(),
        "margin": float(margin.mean()),
        "chosen": float(gained[0].mean()),
        "rejected": float(gained[1].mean()),
    }


def _summed(logp: Tensor, ref: Tensor | None, mask: Tensor) -> Tensor:
    assert ref is not None
    return masked_sum(logp - ref, mask, 1)


def _captions(setting: Setting, model: nn.Module, folder: Path) -> dict[str, Any]:
    """Greedy captions of validation pictures: hallucination, coverage, length; each with its interval."""
    plan = setting.plan
    if not plan.n_pictures:
        return {}
    task = registry.load("tasks", plan.task)(split="validation", n=plan.n_pictures, seed=plan.seed + 1)
    results = evaluate(
        setting.adapter, model, task, folder / "captions", batch_size=100, max_steps=112, progress=False
    )
    wanted = ("hallucination/overall", "coverage/attribute", "coverage/relation", "fact_f1/macro")
    metrics: Mapping[str, Any] = results["metrics"]
    return {name: metrics[name] for name in (*wanted, "tokens_per_caption", "sentences_per_caption")}
