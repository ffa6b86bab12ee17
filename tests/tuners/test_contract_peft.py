"""peft's own tuners by name under the same contract: identity, frozen weights, gradients, counts, saving, merging."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from backbones import BACKBONES, build, inputs, losses, train
from peft import PeftModel
from torch import Tensor, nn

from mmalign.errors import UserError
from mmalign.tuners import attach, is_mergeable, trainable_count
from mmalign.tuners.anatomy import Anatomy
from mmalign.tuners.family.low_rank import projections
from mmalign.tuners.family.skills import for_tasks

pytestmark = pytest.mark.usefixtures("one_path")
R, SKILLS, TASKS = 2, 3, 2
OPTIONS: dict[str, dict[str, Any]] = {
    "lora": {"r": R},
    "dora": {"r": R},
    "rslora": {"r": R},
    "eva": {"r": R},
    "poly": {"r": R, "skills": SKILLS, "tasks": TASKS, "splits": 2},
}
TASK = torch.tensor([0, 1, 1, 0])


def told(model: nn.Module, tuner: str) -> AbstractContextManager[Any]:
    return for_tasks(model, TASK) if tuner == "poly" and isinstance(model, PeftModel) else nullcontext()


def answer(model: nn.Module, tuner: str, x: Tensor) -> Tensor:
    with told(model, tuner):
        out: Tensor = model(x)
    return out


def wanted_count(bare: nn.Module, tuner: str, model: PeftModel) -> int:
    """By the method's formula, from the shapes of the bare model."""
    layers = dict(projections(Anatomy(bare)))
    if tuner == "eva":
        ranks = model.peft_config["default"].rank_pattern
        return sum(
            rank * (layers[name].in_features + layers[name].out_features) for name, rank in ranks.items()
        )
    pair = sum(R * (layer.in_features + layer.out_features) for layer in layers.values())
    if tuner == "poly":
        return SKILLS * pair + len(layers) * TASKS * 2 * SKILLS
    return pair + (sum(layer.out_features for layer in layers.values()) if tuner == "dora" else 0)


@pytest.mark.parametrize("backbone", list(BACKBONES))
@pytest.mark.parametrize("tuner", list(OPTIONS))
def test_contract(tuner: str, backbone: str, tmp_path: Path) -> None:
    if tuner == "poly" and backbone in ("swin", "convnext"):
        with pytest.raises(UserError, match="poly: peft's layer needs tokens"):
            attach(build(backbone), tuner, OPTIONS[tuner])
        return
    bare, x = build(backbone), inputs(backbone)
    with torch.no_grad():
        start = bare(x)
    model = attach(build(backbone), tuner, OPTIONS[tuner], seed=3, probe=losses(backbone)).eval()
    assert trainable_count(model) == wanted_count(bare, tuner, model)
    with torch.no_grad():
        assert (answer(model, tuner, x) - start).abs().max() <= 1e-6

    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    assert train(model, backbone, lambda x: answer(model, tuner, x)) == set()
    assert all(torch.equal(model.get_parameter(name), weight) for name, weight in frozen.items())

    with torch.no_grad():
        tuned = answer(model, tuner, x)
        assert (tuned - start).abs().max() > 1e-6
        with model.disable_adapter():
            assert torch.equal(answer(model, tuner, x), start)
        model.save_pretrained(tmp_path)
        loaded = PeftModel.from_pretrained(build(backbone), tmp_path, is_trainable=True).eval()
        assert torch.equal(answer(loaded, tuner, x), tuned)
        assert trainable_count(loaded) == trainable_count(model)
        assert is_mergeable(model) == (tuner != "poly")
        if tuner != "poly":
            merged = copy.deepcopy(model).merge_and_unload()
            assert (merged(x) - tuned).abs().max() <= 1e-5
            exported = build(backbone)
            exported.load_state_dict(merged.state_dict())
            assert torch.equal(exported(x), merged(x))
