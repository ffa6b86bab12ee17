"""Hierarchical side-tuning: its formula, its shapes, what it keeps for the backward pass, and what it learns."""

from __future__ import annotations

import pytest
import torch
from backbones import inputs, vit
from torch.nn import functional as F

from mmalign.engine.transfer.memory import saved_bytes
from mmalign.errors import UserError
from mmalign.tuners import attach, part_states, trainable_count
from mmalign.tuners.hst.network import Bridge, SideBlock, SideNetwork, SideSizes, grid_of, stage_depths

VIT_B = SideSizes(768, 12, (32, 48, 64, 72), (2, 4, 8, 12))
SMALL = {"widths": [8, 12], "heads": [2, 3], "stride": 4, "every": 1}


def test_count_of_the_paper_s_network() -> None:
    """764,840 with meta tokens and norms and without head; the paper reports 0.78 M."""
    assert VIT_B.count() + 12 * 768 + 4 * 12 * 768 == 764_840
    assert sum(p.numel() for p in SideNetwork(VIT_B).parameters()) == VIT_B.count()


@pytest.mark.parametrize(
    ("depth", "stages", "want"), [(12, 4, (3, 3, 3, 3)), (5, 2, (2, 3)), (7, 3, (2, 2, 3))]
)
def test_stage_depths(depth: int, stages: int, want: tuple[int, ...]) -> None:
    assert stage_depths(depth, stages) == want
    with pytest.raises(UserError, match="give fewer widths"):
        stage_depths(1, 2)


def test_maps_have_strides_4_8_16_32() -> None:
    sizes = SideSizes(16, 4, (4, 6, 8, 8), (1, 2, 2, 4))
    network = SideNetwork(sizes)
    features = [(torch.randn(2, 1, 16), torch.randn(2, 16, 16)) for _ in range(4)]
    maps = network(torch.randn(2, 3, 64, 64), features)
    assert [tuple(m.shape) for m in maps] == [(2, 4, 16, 16), (2, 6, 8, 8), (2, 8, 4, 4), (2, 8, 2, 2)]


def test_projecting_before_resizing_is_projecting_after() -> None:
    bridge = Bridge(6, 4, 1)
    meta, patches = torch.randn(2, 1, 6), torch.randn(2, 9, 6)
    _, fine = bridge(0, meta, patches, (3, 3), (7, 5))
    large = F.interpolate(patches.transpose(1, 2).unflatten(2, (3, 3)), size=(7, 5), mode="bilinear")
    torch.testing.assert_close(fine, bridge.linear(large.flatten(2).transpose(1, 2)))


def test_side_block_by_hand() -> None:
    block = SideBlock(6, 2)
    x, meta, fine = torch.randn(1, 5, 6), torch.randn(1, 1, 6), torch.randn(1, 5, 6)
    memory = torch.cat([meta, fine.mean(1, keepdim=True)], 1)
    q, k, v = block.query(block.norm1(x)), block.key(memory), block.value(memory)
    heads = [
        torch.softmax(q[..., h] @ k[..., h].transpose(1, 2) / 3**0.5, -1) @ v[..., h]
        for h in (slice(0, 3), slice(3, 6))
    ]
    y = x + block.out(torch.cat(heads, -1)) + fine
    torch.testing.assert_close(block(x, meta, fine), y + block.mlp(block.norm2(y)))


def test_grid() -> None:
    assert grid_of(12, torch.zeros(1, 3, 30, 40)) == (3, 4)
    with pytest.raises(UserError, match="no grid"):
        grid_of(7, torch.zeros(1, 3, 32, 32))


def test_detached_mode_keeps_at_most_15_percent_of_what_full_fine_tuning_keeps() -> None:
    shape = {"img_size": 32, "patch_size": 4, "embed_dim": 96, "depth": 6, "num_heads": 3}
    x = torch.randn(4, 3, 32, 32)
    full = saved_bytes(vit(**shape).train(), x)
    detached = attach(vit(**shape), "lst").train()
    faithful = attach(vit(**shape), "hst", {"widths": [12], "heads": [2]}).train()
    assert saved_bytes(detached, x) <= 0.15 * full
    assert saved_bytes(detached, x) < 0.25 * saved_bytes(faithful, x)


def test_no_gradient_flows_through_the_backbone() -> None:
    model = attach(vit(), "lst", SMALL).train()
    seen = []
    block = part_states(model)["blocks.0"]
    block.register_forward_hook(lambda module, args, output: seen.append(output.requires_grad))
    model(inputs("vit")).sum().backward()
    assert seen == [False]
    assert all(p.grad is None for n, p in model.named_parameters() if "mmalign_parts" not in n)


def test_norms_and_meta_tokens_train_in_the_faithful_mode() -> None:
    model = attach(vit(), "hst", SMALL)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    norms = {name for name in trained if "norm1.mmalign" in name or "norm2.mmalign" in name}
    assert len(norms) == 2 * 2 * 2
    assert sum("prompts" in name for name in trained) == 2
    assert trainable_count(model) == SideSizes(24, 2, (8, 12), (2, 3)).count() + 2 * 24 + 4 * 2 * 24 + 13 * 5


def test_dense_head_learns_which_half_is_bright() -> None:
    torch.manual_seed(0)
    model = attach(vit(), "lst", {**SMALL, "head": "dense", "classes": 2}).train()
    x = torch.rand(8, 1, 16, 16).round().repeat(1, 3, 1, 1)
    x = F.interpolate(F.interpolate(x, scale_factor=0.25), scale_factor=4)
    target = x[:, 0].long()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), target)
        loss.backward()
        optimizer.step()
    assert model(x).shape == (8, 2, 16, 16)
    assert float((model(x).argmax(1) == target).float().mean()) > 0.95


def test_refusals() -> None:
    with pytest.raises(UserError, match="batch of one image"):
        attach(vit(), "hst", SMALL).train()(inputs("vit", 1))
    with pytest.raises(UserError, match="leave the scope empty"):
        attach(vit(), "hst", SMALL, scope="blocks.0")
    with pytest.raises(UserError, match="say how many classes"):
        attach(vit(), "lst", {**SMALL, "head": "dense"})
    with pytest.raises(UserError, match="does not divide into 5 heads"):
        attach(vit(), "lst", {"widths": [8], "heads": [5]})
    with pytest.raises(UserError, match="differ in number"):
        attach(vit(), "lst", {"widths": [8], "heads": [2, 2]})
