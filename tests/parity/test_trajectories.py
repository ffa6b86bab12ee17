"""Eight optimiser steps of TRL 1.16's real trainers and of ours: the same loss and gradient norm at every step.

AdamW, constant learning rate, gradients clipped to 0.2 (it binds), new rows every step, LoRA and full.  TRL runs its own
``train()``; ours runs the engine's optimisation step.  GRPO's answers are TRL's, each sample used for two updates, so
that old log-probabilities matter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import SequentialSampler
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, KTOConfig, KTOTrainer

from mmalign.config.policy import GRPOConfig as Settings
from mmalign.engine.experience import Experience
from mmalign.engine.optim import make_optimizer
from mmalign.engine.pairs import kto_objective, pair_objective
from mmalign.engine.step import Loss, optimisation_step
from mmalign.engine.update import policy_update_loss
from mmalign.objectives.advantage import group_advantage
from mmalign.objectives.preference import PairSettings
from mmalign.types import Speed
from tests.parity.setups import TOLERANCE, Ours, Setup, kind, move_away, trl_models
from tests.parity.test_kto import judged, judged_dataset
from tests.parity.test_policy_gradient import LENGTH, restore_bias, reward, score

STEPS, RATE, CLIP = 8, 1e-3, 0.2
SETUPS = [Setup("vision", True, "pad_is_eos"), Setup("text", False, "pad"), Setup("vision", False, "pad")]
NAMED = pytest.mark.parametrize("setup", SETUPS, ids=lambda setup: setup.name)


def schedule() -> dict[str, Any]:
    return {
        "max_steps": STEPS, "learning_rate": RATE, "max_grad_norm": CLIP, "lr_scheduler_type": "constant",
        "weight_decay": 0.0, "optim": "adamw_torch", "logging_steps": 1, "save_strategy": "no",
    }  # fmt: skip


def trained(trainer: Any) -> list[tuple[float, float]]:
    """Loss and gradient norm of every step of TRL's own loop, rows in order."""
    trainer._get_train_sampler = lambda dataset=None: SequentialSampler(trainer.train_dataset)
    trainer.train()
    return [(log["loss"], float(log["grad_norm"])) for log in trainer.state.log_history if "grad_norm" in log]


def stepped(ours: Ours, losses: Callable[[int], Loss]) -> list[tuple[float, float]]:
    """The same of the engine's optimisation step."""
    optimizer = make_optimizer({"policy": ours.model.parameters()}, {"policy": RATE})
    found = []
    for step in range(STEPS):
        metrics = optimisation_step(
            [lambda at=step: losses(at)], optimizer, max_grad_norm=CLIP, where="parity"
        )
        found.append((metrics["loss"], metrics["grad_norm"]))
    return found


def same(ours: list[tuple[float, float]], theirs: list[tuple[float, float]], floor: float = 0.0) -> None:
    """Every step within 1e-5 (of ``floor`` where a loss is smaller), from curves that move and clip."""
    assert len(ours) == len(theirs) == STEPS
    assert len({round(loss, 5) for loss, _ in theirs}) > 4, "the loss has to move"
    assert max(norm for _, norm in theirs) > CLIP, "the clip has to bind"
    for step, ((loss, norm), (wanted, wanted_norm)) in enumerate(zip(ours, theirs, strict=True), start=1):
        assert abs(loss - wanted) <= TOLERANCE * max(abs(wanted), floor), f"step {step}: loss {loss} {wanted}"
        assert abs(norm - wanted_norm) <= TOLERANCE * wanted_norm, f"step {step}: norm {norm} {wanted_norm}"


@NAMED
def test_dpo(setup: Setup, tmp_path: Path) -> None:
    model, reference, processing, peft = trl_models(setup)
    trainer = DPOTrainer(
        model=model, ref_model=reference, processing_class=processing, peft_config=peft,
        args=DPOConfig(**kind(tmp_path, 2), **schedule(), max_length=None, beta=0.5),
        train_dataset=setup.dataset("chosen", "rejected", count=2 * STEPS),
    )  # fmt: skip
    move_away(trainer.model, scale=0.1)
    ours = setup.ours()
    pairs = setup.pairs(ours.processing, 2 * STEPS)
    adapter = setup.adapter(ours.model, ours.processing, speed=Speed())
    objective = pair_objective(adapter, ours.model, ours.reference(adapter), PairSettings(beta=0.5))
    rng = torch.Generator().manual_seed(0)
    same(stepped(ours, lambda at: objective(pairs[2 * at : 2 * at + 2], rng)), trained(trainer))


@NAMED
def test_kto(setup: Setup, tmp_path: Path) -> None:
    model, reference, processing, peft = trl_models(setup)
    trainer = KTOTrainer(
        model=model, ref_model=reference, processing_class=processing, peft_config=peft,
        args=KTOConfig(**kind(tmp_path, 4), **schedule(), max_length=None, beta=0.5),
        train_dataset=judged_dataset(setup, 2 * STEPS),
    )  # fmt: skip
    move_away(trainer.model, scale=0.1)
    ours = setup.ours()
    items = judged(setup, ours.processing, 2 * STEPS)
    adapter = setup.adapter(ours.model, ours.processing, speed=Speed())
    objective = kto_objective(adapter, ours.model, ours.reference(adapter), beta=0.5)
    rng = torch.Generator().manual_seed(0)
    same(stepped(ours, lambda at: objective(items[4 * at : 4 * at + 4], rng)), trained(trainer))  # type: ignore[arg-type]


@NAMED
def test_grpo(setup: Setup, tmp_path: Path) -> None:
    model, _, processing, peft = trl_models(setup)
    if not setup.lora:
        model.save_pretrained(tmp_path / "model")
        processing.save_pretrained(tmp_path / "model")
        model = str(tmp_path / "model")
    trainer = GRPOTrainer(
        model=model, reward_funcs=reward, processing_class=processing, peft_config=peft,
        args=GRPOConfig(
            **kind(tmp_path, 4), **schedule(), num_generations=4, max_completion_length=LENGTH, beta=0.1,
            num_iterations=2, seed=3, **({} if setup.lora else {"model_init_kwargs": {"dtype": "float32"}}),
        ),
        train_dataset=setup.dataset(count=STEPS),
    )  # fmt: skip
    restore_bias(setup, trainer)
    move_away(trainer.model, scale=0.1)
    samples = recorded(trainer)
    trainer.train()
    theirs = [
        (log["loss"], float(log["grad_norm"])) for log in trainer.state.log_history if "grad_norm" in log
    ]
    assert len(samples) == STEPS
    ours = setup.ours()
    update = Replay(setup, ours, samples)
    same(stepped(ours, update), theirs, floor=1.0)


def recorded(trainer: Any) -> list[dict[str, Any]]:
    """The scored sample of every step of a trainer, with the rows it answers."""
    seen: list[dict[str, Any]] = []
    original = trainer.compute_loss

    def compute_loss(model: Any, inputs: dict[str, Any], **rest: Any) -> Any:
        seen.append(dict(inputs))
        return original(model, inputs, **rest)

    trainer.compute_loss = compute_loss
    return seen


class Replay:
    """Our GRPO update on the samples of another trainer: old log-probabilities are ours, of the sample's first step."""

    def __init__(self, setup: Setup, ours: Ours, samples: list[dict[str, Any]]) -> None:
        self._ours, self._samples = ours, samples
        self._adapter = setup.adapter(ours.model, ours.processing, speed=Speed())
        self._reference = ours.reference(self._adapter)
        tokenizer = getattr(ours.processing, "tokenizer", ours.processing)
        self._prompts = {}
        for row in setup.rows(STEPS):
            words = tokenizer(row.prompt[0]["content"], add_special_tokens=False)["input_ids"]
            self._prompts[tuple(words)] = row
        self._data: dict[int, Experience] = {}

    def __call__(self, step: int) -> Loss:
        first = step - step % 2
        if first not in self._data:
            self._data[first] = self._experience(self._samples[first])
        order = self._matched(self._samples[step], self._data[first])
        cfg = Settings(max_completion_length=LENGTH)
        return policy_update_loss(self._adapter, self._ours.model, None, self._data[first], order, cfg, 0.1)

    def _experience(self, sample: dict[str, Any]) -> Experience:
        answers = tokens(sample, "completion")
        row = next(r for words, r in self._prompts.items() if contains(tokens(sample, "prompt")[0], words))
        rows = tuple(_answered(row, at, ids) for at, ids in enumerate(answers))
        batch = self._adapter.collate(rows)
        with torch.no_grad():
            old = self._adapter.logp(self._ours.model, batch).values
        scores = torch.tensor([score(ids) for ids in answers])
        advantages = group_advantage(scores, torch.zeros(len(rows), dtype=torch.long), "group")
        zero = torch.zeros_like(old)
        ref = self._reference.logp(batch)
        return Experience(rows, batch.mask, old, ref, zero, advantages[:, None] * batch.mask, zero)

    @staticmethod
    def _matched(sample: dict[str, Any], data: Experience) -> list[int]:
        """Which of our rows stand in TRL's (shuffled) sample."""
        known = [list(row.steps) for row in data.rows]
        return [known.index(ids) for ids in tokens(sample, "completion")]


def tokens(sample: dict[str, Any], part: str) -> list[list[int]]:
    pairs = zip(sample[f"{part}_ids"], sample[f"{part}_mask"], strict=True)
    return [ids[mask.bool()].tolist() for ids, mask in pairs]


def contains(ids: list[int], words: tuple[int, ...]) -> bool:
    size = len(words)
    return any(tuple(ids[at : at + size]) == words for at in range(len(ids) - size + 1))


def _answered(row: Any, at: int, ids: list[int]) -> Any:
    return replace(row, id=f"{row.id}.{at}", steps=ids, chosen=None, rejected=None)
