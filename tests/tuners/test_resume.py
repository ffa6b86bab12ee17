"""A checkpoint of a tuned model: the resumed run's weights are those of the run that was never stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from backbones import BACKBONES, inputs, losses
from torch import nn

from mmalign.engine.checkpoint import load_checkpoint, save_checkpoint
from mmalign.tuners import attach


@pytest.mark.parametrize(
    ("tuner", "options", "backbone"),
    [
        ("ast", {"reduction": 4, "kernel": 3}, "ast"),
        ("spt", {"budget": 0.05, "rank": 2, "dropout": 0.0, "drop_path": 0.0}, "vit"),
        ("lst", {"classes": 5}, "vit"),
    ],
)
def test_resumed_equals_uninterrupted(
    tuner: str, options: dict[str, Any], backbone: str, tmp_path: Path
) -> None:
    def fresh() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = attach(BACKBONES[backbone][0](), tuner, options, probe=losses(backbone)).train()
        return model, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs(backbone, 4, number)), torch.arange(4)).backward()
        optimizer.step()

    model, optimizer = fresh()
    step(model, optimizer, 1)
    save_checkpoint(
        tmp_path / "checkpoint-1", modules={"policy": model}, optimizer=optimizer, state={"step": 1}
    )
    step(model, optimizer, 2)
    again, second = fresh()
    load_checkpoint(tmp_path / "checkpoint-1", modules={"policy": again}, optimizer=second)
    step(again, second, 2)
    for (name, one), other in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
