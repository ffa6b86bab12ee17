"""What every tuner promises, on every family of backbones."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from backbones import BACKBONES, build, inputs, losses, train
from peft import PeftModel
from torch import Tensor, nn

from mmalign import registry
from mmalign.errors import UserError
from mmalign.tuners import attach, declared_count, is_mergeable, part_states, trainable_count

SIDE = {"widths": [8, 12], "heads": [2, 3], "stride": 4, "every": 1, "classes": 5}
pytestmark = pytest.mark.usefixtures("one_path")
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "adapter": [{"hidden": 4}, {"hidden": 4, "place": "parallel", "act": "relu", "scale": 2.0}],
    "adaptformer": [{"hidden": 4}],
    "ast": [{"reduction": 4, "kernel": 3}, {"reduction": 4, "kind": "bottleneck", "place": "sequential"}],
    "bitfit": [{}, {"what": "norms"}, {"what": "both"}],
    "hst": [{**SIDE}, {"widths": [8], "heads": [2], "classes": 5}],
    "lst": [{"classes": 5}, {**SIDE}, {**SIDE, "residual": True}],
    "mam": [{"hidden": 4, "prefix": 2}, {"hidden": 4, "prefix": 0}],
    "corda": [{"r": 2}, {"r": 2, "keep_knowledge": True}],
    "pissa": [{"r": 2}],
    "spt": [
        {"budget": 0.05, "rank": 2},
        {"budget": 0.1, "rank": 2, "structure": "adapter", "alpha": 30},
        {"budget": 300, "structure": "none"},
        {"budget": 0.05, "rank": 2, "criterion": "magnitude"},
        {"budget": 0.05, "rank": 2, "criterion": "random"},
    ],
    "ssf": [{}],
    "vpt": [{"n": 2}, {"n": 2, "deep": False}],
}
REFUSES = {
    **{
        (tuner, backbone): "prompts need|class token"
        for tuner in ("hst", "lst")
        for backbone in ("swin", "convnext")
    },
    **{(tuner, "ast"): "images" for tuner in ("hst", "lst")},
    ("vpt", "swin"): "windows",
    ("vpt", "convnext"): "convolutions",
    ("ast", "convnext"): "no attention",
    ("mam", "swin"): "prefix: 0",
    ("mam", "convnext"): "prefix: 0",
    ("mam", "clip"): "prefix: 0",
    ("mam", "ast"): "prefix: 0",
}
CASES = [
    (tuner, k, backbone)
    for tuner, sets in OPTIONS.items()
    for k in range(len(sets))
    for backbone in BACKBONES
]


def wrapped(tuner: str, k: int, backbone: str) -> PeftModel:
    return attach(build(backbone), tuner, OPTIONS[tuner][k], seed=3, probe=losses(backbone))


def refused(tuner: str, k: int, backbone: str) -> bool:
    if (tuner, backbone) not in REFUSES or OPTIONS[tuner][k].get("prefix") == 0:
        return False
    return OPTIONS[tuner][k].get("kind") != "bottleneck" or backbone == "convnext"


def base_weights(model: nn.Module) -> dict[str, Tensor]:
    own = {id(p) for layer in part_states(model).values() for p in layer.mmalign_parts.parameters()}
    return {name: p.detach().clone() for name, p in model.named_parameters() if id(p) not in own}


@pytest.mark.parametrize(("tuner", "k", "backbone"), CASES)
def test_contract(tuner: str, k: int, backbone: str, tmp_path: Path) -> None:
    if refused(tuner, k, backbone):
        with pytest.raises(UserError, match=REFUSES[tuner, backbone]):
            wrapped(tuner, k, backbone)
        return
    bare, x = build(backbone), inputs(backbone)
    with torch.no_grad():
        start = bare(x)
    model = wrapped(tuner, k, backbone).eval()
    config = model.peft_config["default"]
    assert declared_count(bare, config) == trainable_count(model) > 0
    json.dumps(config.plan)

    with torch.no_grad():
        unchanged = torch.equal(model(x), start)  # also false for another shape
    assert unchanged == (registry.load("tuners", tuner).identity or "residual" in OPTIONS[tuner][k])

    frozen = base_weights(model)
    assert train(model, backbone) == set(), "trainable tensors without a gradient in two steps"
    for name, weight in base_weights(model).items():
        assert torch.equal(weight, frozen[name]), name

    with torch.no_grad():
        tuned = model(x)
        assert (tuned - start).abs().max() > 1e-6
        with model.disable_adapter():
            assert torch.equal(model(x), start)
        assert torch.equal(model(x), tuned)

        model.save_pretrained(tmp_path)
        loaded = PeftModel.from_pretrained(build(backbone), tmp_path, is_trainable=True).eval()
        assert torch.equal(loaded(x), tuned)
        assert trainable_count(loaded) == trainable_count(model)
        assert trainable_count(PeftModel.from_pretrained(build(backbone), tmp_path)) == 0

        if is_mergeable(model):
            merged = copy.deepcopy(model).merge_and_unload()
            assert (merged(x) - tuned).abs().max() <= 1e-5
            exported = build(backbone)
            exported.load_state_dict(merged.state_dict())
            assert torch.equal(exported(x), merged(x))
            model.merge_adapter()
            assert (model(x) - tuned).abs().max() <= 1e-5
            model.unmerge_adapter()
        else:
            with pytest.raises(UserError, match="cannot be merged"):
                model.merge_and_unload()
        assert torch.equal(model(x), tuned), "a merge taken back, or refused, leaves the model as it was"


def test_every_tuner_of_parts_is_under_contract() -> None:
    from mmalign.tuners import SiteConfig

    made = set()
    for name in registry.names("tuners"):
        options = OPTIONS.get(name, [{}])[0]
        config = attach(build("vit"), name, options, probe=losses("vit")).peft_config["default"]
        if isinstance(config, SiteConfig):
            made.add(name)
    assert made == set(OPTIONS)


@pytest.mark.parametrize(
    ("tuner", "k"), [(tuner, k) for tuner, sets in OPTIONS.items() for k in range(len(sets))]
)
def test_half_precision_keeps_its_type_and_trains_in_float32(tuner: str, k: int) -> None:
    def probe(model: nn.Module) -> Iterator[Tensor]:
        for seed in range(2):
            logits = model(inputs("vit", 4, seed).bfloat16())
            yield nn.functional.cross_entropy(logits.float(), torch.arange(4))

    model = attach(build("vit").bfloat16(), tuner, OPTIONS[tuner][k], probe=probe).train()
    out = model(inputs("vit").bfloat16())
    assert out.dtype == torch.bfloat16 and bool(torch.isfinite(out).all())
    out.float().square().sum().backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert {p.dtype for p in trained} == {torch.float32} and any(p.grad is not None for p in trained)


def test_same_seed_same_adapter() -> None:
    first, second = wrapped("adapter", 0, "vit"), wrapped("adapter", 0, "vit")
    other = attach(build("vit"), "adapter", OPTIONS["adapter"][0], seed=4)
    name = next(n for n, p in first.named_parameters() if p.requires_grad and "down" in n)
    assert torch.equal(first.get_parameter(name), second.get_parameter(name))
    assert not torch.equal(first.get_parameter(name), other.get_parameter(name))


def test_head_trains_beside_the_tuner_and_is_saved(tmp_path: Path) -> None:
    model = attach(build("vit"), "bitfit", modules_to_save=["head"])
    x, head = inputs("vit"), build("vit").head.weight.clone()
    with torch.no_grad():
        start = build("vit")(x)
    assert train(model, "vit") == set()
    with torch.no_grad():
        model.save_pretrained(tmp_path)
        loaded = PeftModel.from_pretrained(build("vit"), tmp_path).eval()
        assert torch.equal(loaded(x), model(x))
        with model.disable_adapter():
            assert torch.equal(model(x), start)
        merged = copy.deepcopy(model).merge_and_unload()
        assert (merged(x) - model(x)).abs().max() <= 1e-5
        assert not torch.equal(merged.head.weight, head)


def test_second_adapter_name_loads(tmp_path: Path) -> None:
    model = wrapped("ssf", 0, "vit")
    train(model, "vit")
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(build("vit"), tmp_path, adapter_name="mine").eval()
    assert torch.equal(loaded(inputs("vit")), model(inputs("vit")))


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(UserError, match=r'no such name under tuners \(did you mean "bitfit"'):
        attach(build("vit"), "bitfitt")
    with pytest.raises(UserError, match=r'option hiden.*did you mean "hidden"'):
        attach(build("vit"), "adapter", {"hiden": 3})
    with pytest.raises(UserError, match=r'no module is called "block"'):
        attach(build("vit"), "bitfit", scope="block")
    with pytest.raises(UserError, match="carries an adapter already"):
        attach(wrapped("bitfit", 0, "vit"), "bitfit")
    with pytest.raises(UserError, match=r"spt: looks at data"):
        attach(build("vit"), "spt")
