"""TRL 1.16's real KTO trainer against our adapters: both losses, text and image, LoRA and full, three endings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from trl import KTOConfig, KTOTrainer

from mmalign.engine.pairs import kto_objective
from tests.parity.setups import FEW, Setup, close, kind, move_away, ready_batch, their_gradient, trl_models

WEIGHTS = {"desirable_weight": 1.2, "undesirable_weight": 0.7}


def judged(setup: Setup, processing: object, count: int = 4) -> list[tuple[object, bool]]:
    """Every answer of the pairs with its verdict, chosen and rejected in turn."""
    pairs = setup.pairs(processing, count)
    return [item for pair in pairs for item in ((pair.chosen, True), (pair.rejected, False))]


def judged_dataset(setup: Setup, count: int = 4) -> object:
    """The same for TRL."""
    rows = setup.dataset("chosen", "rejected", count=count)
    examples = []
    for row in rows:
        rest = {name: row[name] for name in ("prompt", "images") if name in row}
        examples += [
            {**rest, "completion": row[side], "label": side == "chosen"} for side in ("chosen", "rejected")
        ]
    return type(rows).from_list(examples)


@pytest.mark.parametrize("loss_type", ["kto", "apo_zero_unpaired"])
@pytest.mark.parametrize("setup", FEW, ids=lambda setup: setup.name)
def test_loss_and_gradient(setup: Setup, loss_type: str, tmp_path: Path) -> None:
    model, reference, processing, peft = trl_models(setup)
    trainer = KTOTrainer(
        model=model, ref_model=reference, processing_class=processing, peft_config=peft,
        args=KTOConfig(**kind(tmp_path, 8), max_length=None, beta=0.3, loss_type=loss_type, **WEIGHTS),
        train_dataset=judged_dataset(setup),
    )  # fmt: skip
    move_away(trainer.model, scale=0.1)
    trainer.model.train()
    theirs = trainer.compute_loss(trainer.model, ready_batch(trainer))
    expected = their_gradient(trainer, theirs)
    ours = setup.ours()
    items = judged(setup, ours.processing)
    for variant, adapter, ref in ours.variants():
        objective = kto_objective(adapter, ours.model, ref, beta=0.3, loss_type=loss_type, **WEIGHTS)  # type: ignore[arg-type]
        value = objective(items, torch.Generator().manual_seed(0)).value  # type: ignore[arg-type]
        close(value.detach(), theirs.detach(), f"{variant}: loss")
        close(ours.gradient(value), expected, f"{variant}: gradient")
