"""GRPO on one prompt with a picture: TRL's ``training_step`` and a step of our online trainer over equal weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mmalign import registry
from mmalign.bench.definition import Step
from mmalign.benchmarks.bench.gradients import flat_gradient, move_away
from mmalign.benchmarks.bench.switches import SAMPLING, SWITCHES, switched
from mmalign.benchmarks.bench.trl_peer import completion_head, grpo_trainer
from mmalign.config.policy import GRPOConfig
from mmalign.engine.experience import Experience
from mmalign.engine.loop import LoopState
from mmalign.engine.online import KLCoefficient, OnlineTrainer
from mmalign.engine.optim import make_optimizer
from mmalign.engine.reference import Reference
from mmalign.engine.update import policy_update_loss
from mmalign.objectives.advantage import group_advantage
from mmalign.types import Rollout, Row, StepReward

__all__ = ["VARIANTS", "GRPOSetting"]

SAMPLES, BETA = 8, 0.04
REUSE = "reuse_sampling_logp"
VARIANTS: Mapping[str, str] = {
    "trl": "TRL 1.16 as shipped (on CPU its head scores every position)",
    "trl+head": "TRL with its completion-only head enabled on CPU (one condition patched)",
    "mmalign-plain": "mmalign with every switch off",
    "mmalign": "mmalign with every switch on, the sampler's log-probabilities reused",
    **{f"mmalign-{name}": f"mmalign without {name}" for name in (*SWITCHES, *SAMPLING, REUSE)},
}


def token_score(ids: Sequence[int]) -> float:
    """A reward that depends on every token of an answer."""
    return sum(int(token) * (at + 1) % 7 for at, token in enumerate(ids)) / 10


@dataclass(frozen=True)
class GRPOSetting:
    """A model and one prompt; calling it builds the named variants.

    Args:
        model: makes the policy with its processor, the same weights each time.
        rows: makes the rows (answers are not used).
        length: tokens of every sampled answer.
    """

    model: Callable[[], tuple[Any, Any]]
    rows: Callable[[], list[Row]]
    length: int

    def __call__(self, names: Sequence[str]) -> Mapping[str, Step]:
        """One step per name; TRL and mmalign each have a policy of their own with equal weights."""
        rows = [replace(row, chosen=None, rejected=None) for row in self.rows()]
        trainer = None
        if any(name.startswith("trl") for name in names):
            trainer = self._trainer(rows)
        steps = {}
        side = _Ours(self, rows) if any(name.startswith("mmalign") for name in names) else None
        for name in names:
            if name.startswith("trl"):
                steps[name] = _trl_step(trainer, head="+head" in name)
            else:
                assert side is not None
                steps[name] = side.step(name, trainer)
        return steps

    def policy(self) -> tuple[Any, Any, Any]:
        """The base model with fresh LoRA, its processor, and an adapter that knows both."""
        model, processing = self.model()
        adapter = registry.load("modalities", "vision")()
        adapter.adopt(model, processing)
        tuned = adapter.attach_lora(model, r=16, alpha=16, target_modules="all-linear", seed=0)
        return tuned, processing, adapter

    def _trainer(self, rows: Sequence[Row]) -> Any:
        model, processing = self.model()
        examples = [{"prompt": row.prompt, "images": list(row.media)} for row in rows]
        config = copy.deepcopy(self.policy()[0].peft_config["default"])
        trainer = grpo_trainer(
            model, processing, examples, config, _trl_reward, samples=SAMPLES, length=self.length, beta=BETA
        )
        move_away(trainer.model, scale=0.1)
        return trainer


def _trl_reward(completions: Any, completion_ids: list[list[int]], **_: object) -> list[float]:
    return [token_score(ids) for ids in completion_ids]


def _trl_step(trainer: Any, *, head: bool) -> Step:
    examples = [trainer.train_dataset[0]] * SAMPLES
    state: dict[str, Tensor] = {}

    def run(_: Any) -> None:
        torch.manual_seed(7)
        trainer.model.zero_grad(set_to_none=True)
        with completion_head(head):
            state["loss"] = trainer.training_step(trainer.model, copy.deepcopy(examples), None).detach()

    def outcome() -> Mapping[str, Tensor]:
        sample = trainer._buffered_inputs[0]
        return {**state, "gradient": flat_gradient(trainer.model), "reference": sample["ref_per_token_logps"]}

    return Step(run, outcome)


class _Ours:
    """Our policy; the reference is the adapter switched off."""

    def __init__(self, setting: GRPOSetting, rows: Sequence[Row]) -> None:
        self._rows, self._length = rows, setting.length
        self._model, self._processing, _ = setting.policy()
        move_away(self._model, scale=0.1)

    def step(self, name: str, trainer: Any) -> Step:
        """One variant with an adapter of its own; ``trainer`` is TRL's, whose samples decide equality."""
        off = name.removeprefix("mmalign-") if name.startswith("mmalign-") else None
        adapter = registry.load("modalities", "vision")()
        adapter.adopt(self._model, self._processing)
        switched(adapter, off=off)
        cfg = GRPOConfig(
            rollout_batch_size=1,
            num_generations=SAMPLES,
            per_device_train_batch_size=SAMPLES,
            max_completion_length=self._length,
            kl_coef=BETA,
            dense_advantages=False,
            learning_rate=1e-12,
            reuse_sampling_logp=off not in ("plain", REUSE),
        )
        optimizer = make_optimizer({"policy": self._model.parameters()}, {"policy": cfg.learning_rate})
        reference, kl = Reference(adapter, self._model), KLCoefficient(BETA)
        state = LoopState({"policy": self._model}, optimizer, {"kl": kl})
        ours = OnlineTrainer(
            adapter, self._model, reference, _reward, None, self._rows, cfg, state, kl, "grpo", 0
        )

        def outcome() -> Mapping[str, Tensor]:
            return _on_their_samples(ours, trainer._buffered_inputs[0])

        return (
            Step(lambda _: ours.step(1), outcome)
            if trainer is not None
            else Step(lambda _: ours.step(1), dict)
        )


def _reward(rollout: Rollout) -> StepReward:
    value = torch.zeros(rollout.mask.shape)
    for at, row in enumerate(rollout.rows):
        value[at, len(row.steps) - 1] = token_score(row.steps)
    return StepReward(value, {"score": value})


def _on_their_samples(ours: OnlineTrainer, sample: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Loss, gradient and reference of our update on the answers that TRL sampled."""
    answers = [
        ids[mask.bool()].tolist()
        for ids, mask in zip(sample["completion_ids"], sample["completion_mask"], strict=True)
    ]
    rows = tuple(replace(ours.rows[0], id=f"theirs{at}", steps=ids) for at, ids in enumerate(answers))
    batch = ours.adapter.collate(rows)
    scores = torch.tensor([token_score(ids) for ids in answers])
    advantages = group_advantage(scores, torch.zeros(len(rows), dtype=torch.long), "group")
    with torch.no_grad():
        old = ours.adapter.logp(ours.model, batch).values
    reference = ours.reference.logp(batch)
    zero = torch.zeros_like(old)
    data = Experience(rows, batch.mask, old, reference, zero, advantages[:, None] * batch.mask, zero)
    ours.model.zero_grad(set_to_none=True)
    loss = policy_update_loss(ours.adapter, ours.model, None, data, range(len(rows)), ours.cfg, BETA).value
    loss.backward()
    return {"loss": loss.detach(), "gradient": flat_gradient(ours.model), "reference": reference}
