"""LoRA and its starts: peft's own by name, EVA, PiSSA and CorDA with an untouched base, Poly, and what stock peft reads."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from backbones import inputs, losses, vit
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from mmalign.errors import UserError
from mmalign.tuners import attach, is_mergeable
from mmalign.tuners.anatomy import Anatomy
from mmalign.tuners.export import export_lora
from mmalign.tuners.family.low_rank import corda_factors, projections
from mmalign.tuners.family.skills import for_tasks, mean_skill, router_only
from mmalign.tuners.moments import input_moments

X = inputs("vit")


def steps(model: nn.Module, n: int = 2) -> None:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(n):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), torch.arange(4)).backward()
        optimizer.step()


@pytest.mark.parametrize("name", ["lora", "dora", "rslora", "eva"])
def test_peft_s_own_by_name(name: str, tmp_path: Path) -> None:
    model = attach(vit(), name, {"r": 2, "alpha": 4}, probe=losses("vit"))
    start = vit()(X)
    torch.testing.assert_close(model(X), start, rtol=0, atol=1e-6)
    assert all("lora" in n for n, p in model.named_parameters() if p.requires_grad)
    assert not any("patch_embed" in n for n, p in model.named_parameters() if p.requires_grad)
    steps(model)
    tuned = model(X).detach()
    with model.disable_adapter():
        assert torch.equal(model(X), start)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "LORA"
    torch.testing.assert_close(PeftModel.from_pretrained(vit(), tmp_path)(X), tuned, rtol=0, atol=1e-6)
    torch.testing.assert_close(copy.deepcopy(model).merge_and_unload()(X), tuned, rtol=0, atol=1e-5)


def test_eva_spends_its_ranks_on_the_planted_directions() -> None:
    model = attach(vit(), "eva", {"r": 2, "alpha": 4, "batches": 3}, probe=losses("vit"))
    config = model.peft_config["default"]
    bare = vit()
    layers = dict(projections(Anatomy(bare)))
    assert sum(config.rank_pattern.values()) == 2 * len(layers)
    assert max(config.rank_pattern.values()) <= 4
    found = input_moments(bare, layers, losses("vit"), 3)
    for name, rank in config.rank_pattern.items():
        a = model.base_model.model.get_submodule(name).lora_A["default"].weight.detach().double()
        torch.testing.assert_close(a @ a.T, torch.eye(rank, dtype=a.dtype), rtol=0, atol=1e-5)
        top = torch.linalg.svd(found[name].covariance()).U[:, :rank]
        assert torch.linalg.svdvals(a @ top).min() > 1 - 1e-4
        assert config.alpha_pattern[name] == 4 * rank / 2


def test_moments_by_hand() -> None:
    net = nn.Sequential(nn.Linear(3, 2))
    data = torch.randn(2, 5, 3)
    found = input_moments(net, {"0": net[0]}, lambda m: (m(x).sum() for x in data), 2)["0"]
    flat = data.reshape(-1, 3).double()
    torch.testing.assert_close(found.second(), flat.T @ flat / 10)
    torch.testing.assert_close(found.covariance(), torch.cov(flat.T, correction=0))
    with pytest.raises(UserError, match="never call 0"):
        input_moments(net, {"0": net[0]}, lambda m: iter([torch.zeros(())]), 1)


def test_pissa_trains_as_peft_s_and_leaves_the_base() -> None:
    ours = attach(vit(), "pissa", {"r": 2})
    names = [name for name, _ in projections(Anatomy(vit()))]
    theirs = get_peft_model(
        vit(), LoraConfig(r=2, lora_alpha=2, target_modules=names, init_lora_weights="pissa")
    )
    steps(ours)
    steps(theirs)
    torch.testing.assert_close(ours(X), theirs(X), rtol=0, atol=2e-4)
    start = vit()(X)
    with ours.disable_adapter(), theirs.disable_adapter():
        assert torch.equal(ours(X), start)
        assert (theirs(X) - start).abs().max() > 1e-2, "the reason for a pair that is taken off again"


def test_corda_directions() -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(5, 4), torch.randn(200, 4) * torch.tensor([10.0, 1.0, 1.0, 0.1])
    second = x.T @ x / 200
    a, b = corda_factors(weight, second, 2)
    kept = (x @ (weight - b @ a).T).square().mean()
    other_a, other_b = corda_factors(weight, None, 2)
    assert kept < (x @ (weight - other_b @ other_a).T).square().mean(), "fits the data better than PiSSA"
    for scale in (torch.eye(4), 3 * torch.eye(4)):
        a, b = corda_factors(weight, scale, 2)
        torch.testing.assert_close(b @ a, other_b @ other_a, rtol=1e-4, atol=1e-5)
    last_a, last_b = corda_factors(weight, second, 2, last=True)
    first_a, first_b = corda_factors(weight, second, 2)
    torch.testing.assert_close(last_b @ last_a + first_b @ first_a, weight, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="above that of a weight"):
        corda_factors(weight, None, 5)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("pissa", {"r": 2}),
        ("corda", {"r": 2}),
        ("spt", {"budget": 500, "rank": 2}),
    ],
)
def test_export_to_stock_lora(name: str, options: dict[str, float], tmp_path: Path) -> None:
    model = attach(vit(), name, options, probe=losses("vit")).eval()
    if name == "spt":
        with pytest.raises(UserError, match="no LoRA equals"):
            export_lora(model, tmp_path)
        return
    steps(model)
    export_lora(model, tmp_path)
    stock = PeftModel.from_pretrained(vit(), tmp_path)
    assert type(stock.base_model).__name__ == "LoraModel"
    torch.testing.assert_close(stock(X), model(X), rtol=0, atol=1e-5)


def test_poly() -> None:
    model = attach(vit(), "poly", {"r": 2, "tasks": 2, "skills": 3, "splits": 2})
    tasks = torch.tensor([0, 1, 0, 1])
    with for_tasks(model, tasks):
        torch.testing.assert_close(model(X), vit()(X))
    for name, parameter in model.named_parameters():
        if "poly_lora_B" in name:
            nn.init.normal_(parameter)
    model.eval()
    with for_tasks(model, tasks):
        mixed = model(X)
    for parameter in (p for n, p in model.named_parameters() if "module_logits" in n):
        nn.init.zeros_(parameter)
    with for_tasks(model, tasks):
        uniform = model(X)
    assert (uniform - mixed).abs().max() < 0.1 * (uniform - vit()(X)).abs().max()
    torch.testing.assert_close(mean_skill(model, vit())(X), uniform, rtol=1e-4, atol=1e-4)
    assert not is_mergeable(model) and is_mergeable(attach(vit(), "lora", {"r": 2}))
    router_only(model)
    assert all("router" in name for name, p in model.named_parameters() if p.requires_grad)
    with pytest.raises(UserError, match="does not divide by 7"):
        attach(vit(), "poly", {"splits": 7})
    with pytest.raises(UserError, match="carries no skills"), for_tasks(attach(vit(), "bitfit"), tasks):
        pass


def test_lora_on_chosen_layers() -> None:
    model = attach(vit(), "lora", {"r": 1, "targets": ["attn.qkv"]})
    names = {name.rsplit(".lora_", 1)[0] for name, p in model.named_parameters() if p.requires_grad}
    assert {name.split("model.model.")[-1].split(".", 2)[2] for name in names} == {"attn.qkv"} and len(
        names
    ) == 2
    eva = attach(vit(), "eva", {"r": 2, "targets": ["fc1", "fc2"]}, probe=losses("vit"))
    assert sum(eva.peft_config["default"].rank_pattern.values()) == 2 * 4
    with pytest.raises(
        UserError, match=r"ends in 'attn.q'; known endings: attn.proj, attn.qkv, mlp.fc1, mlp.fc2"
    ):
        attach(vit(), "lora", {"targets": ["attn.q"]})
