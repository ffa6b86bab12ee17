"""TRL 1.16's real GRPO and RLOO trainers on a tiny GPT-2: advantages, loss, and the gradient of every weight.

The trainer samples, scores and forms advantages by itself; ours are then computed from the rewards it saw and
from log-probabilities of an independent forward.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from mmalign.objectives.advantage import group_advantage, rloo_advantage
from mmalign.objectives.kl import kl_penalty
from mmalign.objectives.policy import grpo_loss, rloo_loss

VOCAB = 24
GROUP = torch.tensor([0, 0, 0, 1, 1, 1])
PROMPTS = [{"prompt": "w3 w4"}] * 3 + [{"prompt": "w5 w6 w7"}] * 3


def tokenizer() -> PreTrainedTokenizerFast:
    vocab = {"<pad>": 0, "<eos>": 1, "<unk>": 2} | {f"w{i}": i for i in range(3, VOCAB)}
    core = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )


def tiny_gpt2(seed: int) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=VOCAB, n_embd=16, n_layer=2, n_head=2, n_positions=32, initializer_range=0.3,
        bos_token_id=1, eos_token_id=1, pad_token_id=0, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


SEEN: list[float] = []


def odd_share(completions: list[str], completion_ids: list[list[int]], **_: object) -> list[float]:
    """A reward with no symmetry: it depends on every token."""
    SEEN[:] = [sum(token * (i + 1) % 7 for i, token in enumerate(ids)) / 10 for ids in completion_ids]
    return list(SEEN)


def per_token_logp(model: GPT2LMHeadModel, sample: dict[str, Tensor]) -> Tensor:
    """Log-probability of each completion token from a plain forward of the whole sequence, ``[B, T]``."""
    ids = torch.cat([sample["prompt_ids"], sample["completion_ids"]], 1)
    attention = torch.cat([sample["prompt_mask"], sample["completion_mask"]], 1)
    steps = sample["completion_ids"].shape[1]
    logits = model(input_ids=ids, attention_mask=attention).logits[:, -steps - 1 : -1]
    return logits.log_softmax(-1).gather(-1, sample["completion_ids"][..., None])[..., 0]


def saved(folder: Path) -> str:
    """The tiny model on disk: TRL loads policy and reference by name."""
    tiny_gpt2(0).save_pretrained(folder / "model")
    return str(folder / "model")


def common(folder: Path) -> dict[str, object]:
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": 6,
        "num_generations": 3,
        "max_completion_length": 7,
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "gradient_checkpointing": False,
        "seed": 3,
    }


def gradients(loss: Tensor, model: GPT2LMHeadModel) -> Tensor:
    """All weights' gradients as one vector."""
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_real_grpo_trainer(tmp_path: Path, scale: str) -> None:
    config = GRPOConfig(
        **common(tmp_path), beta=0.1, scale_rewards=scale, loss_type="dapo", epsilon_high=0.28
    )
    trainer = GRPOTrainer(
        model=saved(tmp_path), reward_funcs=odd_share, args=config, processing_class=tokenizer(),
        train_dataset=Dataset.from_list(PROMPTS[::3]),
    )  # fmt: skip
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    sample = trainer._generate_and_score_completions([dict(p) for p in PROMPTS])
    advantages = group_advantage(torch.tensor(SEEN), GROUP, scale)  # type: ignore[arg-type]
    assert (advantages - sample["advantages"]).abs().max().item() < 1e-5
    assert advantages.abs().max().item() > 0.05
    mask = sample["completion_mask"].bool()
    sample["old_per_token_logps"] = per_token_logp(tiny_gpt2(0), sample).detach() - 0.15 * (
        mask.cumsum(1) % 3
    )
    sample["ref_per_token_logps"] = per_token_logp(tiny_gpt2(1), sample).detach()
    theirs = trainer._compute_loss(trainer.model, sample)
    logp = per_token_logp(trainer.model, sample)
    ours, _ = grpo_loss(
        logp, sample["old_per_token_logps"], advantages, mask, "dapo", 0.2, 0.28,
        beta=0.1, logp_ref=sample["ref_per_token_logps"],
    )  # fmt: skip
    assert abs(ours.item() - theirs.item()) < 1e-5
    expected = gradients(theirs, trainer.model)
    assert (gradients(ours, trainer.model) - expected).abs().max().item() < 1e-5 * max(
        1.0, expected.abs().max().item()
    )


def test_real_rloo_trainer(tmp_path: Path) -> None:
    config = RLOOConfig(**common(tmp_path), beta=0.3, epsilon_high=0.28)
    trainer = RLOOTrainer(
        model=saved(tmp_path), reward_funcs=odd_share, args=config, processing_class=tokenizer(),
        train_dataset=Dataset.from_list(PROMPTS[::3]),
    )  # fmt: skip
    trainer.ref_model.load_state_dict(tiny_gpt2(1).state_dict())
    trainer.model.train()
    sample = trainer._generate_and_score_completions([dict(p) for p in PROMPTS])
    mask = sample["completion_mask"].bool()
    old, reference = (per_token_logp(tiny_gpt2(seed), sample).detach() for seed in (0, 1))
    shaped = torch.tensor(SEEN) - 0.3 * kl_penalty(old, reference, "k1", mask).sum(1)
    advantages = rloo_advantage(shaped, GROUP)
    assert (advantages - sample["advantages"]).abs().max().item() < 1e-5
    theirs = trainer._compute_loss(trainer.model, sample)
    ours, _ = rloo_loss(per_token_logp(trainer.model, sample), old, advantages, mask, 0.2, 0.28)
    assert abs(ours.item() - theirs.item()) < 1e-5
    expected = gradients(theirs, trainer.model)
    assert (gradients(ours, trainer.model) - expected).abs().max().item() < 1e-5 * max(
        1.0, expected.abs().max().item()
    )
