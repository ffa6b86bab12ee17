"""TRL 1.16's real GRPO and RLOO trainers against our adapters, on the answers that TRL sampled.

TRL samples, rewards, forms advantages and scores; ours starts from the sampled tokens alone.  Reference, advantages, loss
and the gradient of every trained weight agree; the ratio is moved well away from 1.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from mmalign.config.policy import GRPOConfig as Settings
from mmalign.engine.experience import Experience
from mmalign.engine.update import policy_update_loss
from mmalign.objectives.advantage import group_advantage, rloo_advantage
from mmalign.objectives.kl import kl_penalty
from mmalign.objectives.policy import rloo_loss
from mmalign.types import Row
from tests.parity.setups import Setup, close, kind, move_away, their_gradient, trl_models

SAMPLED = [
    Setup("text", True, "pad_is_eos"),
    Setup("text", False, "pad"),
    Setup("vision", True, "pad"),
    Setup("vision", False, "pad_is_eos"),
]
GROUPS = torch.tensor([0, 0, 0, 1, 1, 1])
LENGTH = 7


def score(ids: list[int]) -> float:
    """A reward that depends on every token."""
    return sum(token * (at + 1) % 7 for at, token in enumerate(ids)) / 10


def reward(completions: Any, completion_ids: list[list[int]], **_: object) -> list[float]:
    return [score(ids) for ids in completion_ids]


def sampled(setup: Setup, make: Any, config: Any, folder: Path, **settings: Any) -> SimpleNamespace:
    """A real trainer and one of its scored samples: two prompts, three answers each."""
    model, _, processing, peft = trl_models(setup)
    if not setup.lora:  # TRL loads policy and reference of full training by name
        model.save_pretrained(folder / "model")
        processing.save_pretrained(folder / "model")
        model = str(folder / "model")
        settings["model_init_kwargs"] = {"dtype": "float32"}
    args = config(
        **kind(folder, 6),
        num_generations=3,
        max_completion_length=LENGTH,
        seed=3,
        epsilon_high=0.28,
        **settings,
    )
    rows = setup.dataset(count=2)
    trainer = make(
        model=model,
        reward_funcs=reward,
        args=args,
        processing_class=processing,
        train_dataset=rows,
        peft_config=peft,
    )
    restore_bias(setup, trainer)
    move_away(trainer.model, scale=0.1)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    torch.manual_seed(5)
    sample = trainer._generate_and_score_completions(
        [dict(trainer.train_dataset[at]) for at in GROUPS.tolist()]
    )
    answers = [
        ids[mask.bool()].tolist()
        for ids, mask in zip(sample["completion_ids"], sample["completion_mask"], strict=True)
    ]
    prompts = setup.rows(2)
    found = tuple(
        replace(prompts[group], id=f"{group}.{at}", steps=ids, chosen=None, rejected=None)
        for at, (group, ids) in enumerate(zip(GROUPS.tolist(), answers, strict=True))
    )
    return SimpleNamespace(trainer=trainer, sample=sample, rows=found, ours=setup.ours())


def restore_bias(setup: Setup, trainer: Any) -> None:
    """Our LLaVA's head has a bias (see ``benchmarks.bench.models.llava``), which ``from_pretrained`` does not know."""
    if setup.modality == "vision" and not setup.lora:
        for model in (trainer.model, trainer.ref_model):
            if model is not None:
                model.lm_head.bias = torch.nn.Parameter(
                    setup.model()[0].lm_head.bias.data, requires_grad=False
                )


def old_logp(adapter: Any, model: torch.nn.Module, rows: tuple[Row, ...]) -> tuple[Tensor, Tensor]:
    """Log-probabilities of a policy that sampled a while ago: ours, shifted token by token."""
    batch = adapter.collate(rows)
    with torch.no_grad():
        values = adapter.logp(model, batch).values
    return (values - 0.15 * (batch.mask.cumsum(1) % 3)) * batch.mask, batch.mask


@pytest.mark.parametrize("setup", SAMPLED, ids=lambda setup: setup.name)
def test_grpo(setup: Setup, tmp_path: Path) -> None:
    side = sampled(setup, GRPOTrainer, GRPOConfig, tmp_path, beta=0.1)
    trainer, sample, model = side.trainer, side.sample, side.ours.model
    advantages = group_advantage(torch.tensor([score(row.steps) for row in side.rows]), GROUPS, "group")
    close(advantages, sample["advantages"], "advantages")
    for variant, adapter, reference in side.ours.variants():
        old, mask = old_logp(adapter, model, side.rows)
        logp_ref = reference.logp(adapter.collate(side.rows))
        close(logp_ref[mask], sample["ref_per_token_logps"][mask], f"{variant}: reference")
        sample["old_per_token_logps"] = old
        zero = torch.zeros_like(old)
        data = Experience(side.rows, mask, old, logp_ref, zero, advantages[:, None] * mask, zero)
        for loss_type in ("dapo", "grpo", "bnpo", "dr_grpo", "sapo", "luspo", "vespo"):
            trainer.loss_type = loss_type
            theirs = trainer.compute_loss(trainer.model, dict(sample))
            expected = their_gradient(trainer, theirs)
            cfg = Settings(loss_type=loss_type, cliprange_high=0.28, max_completion_length=LENGTH)
            value = policy_update_loss(adapter, model, None, data, range(6), cfg, 0.1).value
            close(value.detach(), theirs.detach(), f"{variant}, {loss_type}: loss", floor=1.0)
            close(side.ours.gradient(value), expected, f"{variant}, {loss_type}: gradient")


@pytest.mark.parametrize("setup", SAMPLED, ids=lambda setup: setup.name)
def test_rloo(setup: Setup, tmp_path: Path) -> None:
    side = sampled(setup, RLOOTrainer, RLOOConfig, tmp_path, beta=0.3)
    trainer, sample, model = side.trainer, side.sample, side.ours.model
    for variant, adapter, reference in side.ours.variants():
        batch = adapter.collate(side.rows)
        scored = adapter.logp(model, batch)
        logp, mask = scored.values, scored.mask
        old = logp.detach()
        shaped = torch.tensor([score(row.steps) for row in side.rows])
        shaped = shaped - 0.3 * kl_penalty(old, reference.logp(batch), "k1", mask).sum(1)
        advantages = rloo_advantage(shaped, GROUPS)
        close(advantages, sample["advantages"], f"{variant}: advantages")
        theirs = trainer.compute_loss(trainer.model, dict(sample))
        expected = their_gradient(trainer, theirs)
        value, _ = rloo_loss(logp, old, advantages, mask, 0.2, 0.28)
        close(value.detach(), theirs.detach(), f"{variant}: loss", floor=1.0)
        close(side.ours.gradient(value), expected, f"{variant}: gradient")
