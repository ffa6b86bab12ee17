"""TRL 1.16's real CPO (SimPO) and ORPO trainers, which live in its experimental part and read text only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from mmalign.data.pairs import Pair
from mmalign.engine.pairs import pair_objective
from mmalign.objectives.preference import PairSettings
from mmalign.types import Row
from tests.parity.setups import CHOSEN, PROMPTS, REJECTED, Ours, Setup, close, kind, move_away, their_gradient

TEXT = [Setup("text", lora, ending) for lora in (True, False) for ending in ("pad", "pad_is_eos")]
CASES = [
    (CPOTrainer, CPOConfig, {"loss_type": "simpo", "cpo_alpha": 0.0, "simpo_gamma": 0.4}, "simpo"),
    (CPOTrainer, CPOConfig, {"loss_type": "sigmoid", "cpo_alpha": 1.0}, "cpo"),
    (ORPOTrainer, ORPOConfig, {}, "orpo"),
]


@pytest.mark.parametrize(("make", "config", "options", "name"), CASES, ids=[case[3] for case in CASES])
@pytest.mark.parametrize("setup", TEXT, ids=lambda setup: setup.name)
def test_loss_and_gradient(
    setup: Setup, make: Any, config: Any, options: dict[str, Any], name: str, tmp_path: Path
) -> None:
    model, tokenizer = setup.policy()
    tokenizer.chat_template = None
    rows = [
        dict(prompt=p, chosen=f" {c}", rejected=f" {r}")
        for p, c, r in zip(PROMPTS, CHOSEN, REJECTED, strict=True)
    ]
    args = config(**kind(tmp_path, 4), beta=0.3, max_length=64, remove_unused_columns=False, **options)
    trainer = make(model=model, args=args, processing_class=tokenizer, train_dataset=Dataset.from_list(rows))
    move_away(trainer.model, scale=0.1)
    batch = next(iter(trainer.get_train_dataloader()))
    theirs, _ = trainer.get_batch_loss_metrics(trainer.model, batch)
    if name == "orpo":
        theirs = theirs + answers_only(trainer, batch)
    expected = their_gradient(trainer, theirs)
    policy, processing = setup.policy()
    processing.chat_template = None
    ours = Ours(setup, policy, policy, processing)
    move_away(policy, scale=0.1)
    pairs = [Pair(*(_row(batch, side, at) for side in ("chosen", "rejected"))) for at in range(len(rows))]
    for variant, adapter, _ in ours.variants():
        settings = PairSettings((name,), beta=0.3, simpo_gamma=0.4)  # type: ignore[arg-type]
        value = pair_objective(adapter, policy, None, settings)(pairs, torch.Generator().manual_seed(0)).value
        close(value.detach(), theirs.detach(), f"{variant}: loss")
        close(ours.gradient(value), expected, f"{variant}: gradient")


def answers_only(trainer: Any, batch: dict[str, Any]) -> Tensor:
    """What turns TRL's ORPO, whose likelihood term counts prompt tokens too, into that of answers alone."""
    chosen, mask = batch["chosen_input_ids"], batch["chosen_attention_mask"]
    logp = trainer.model(input_ids=chosen, attention_mask=mask).logits[:, :-1].log_softmax(-1)
    taken = logp.gather(-1, chosen[:, 1:, None])[..., 0]
    real, answers = mask[:, 1:].bool(), batch["chosen_labels"][:, 1:] != -100
    assert answers.sum() < real.sum()
    return taken[real].mean() - taken[answers].mean()


def _row(batch: dict[str, Any], side: str, at: int) -> Row:
    """One answer of TRL's batch: the tokens it scores, behind the prompt with its start token."""
    labels = batch[f"{side}_labels"][at]
    return Row(id=f"{side}{at}", prompt="<s>" + batch["prompt"][at], steps=labels[labels != -100].tolist())
