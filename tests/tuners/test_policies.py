"""Layer-wise rates, frozen and re-drawn blocks, and DR-Tune's queue, rotation and loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from backbones import BACKBONES, clip, convnext, inputs, swin, vit
from torch import nn
from torch.nn import functional as F

from mmalign.engine.optim import make_optimizer
from mmalign.errors import UserError
from mmalign.tuners.dr_tune import FeatureQueue, calibrated, dr_tune_loss, procrustes
from mmalign.tuners.policies import freeze_below, layer_rates, reinitialise


def test_rates_are_geometric() -> None:
    model = vit()
    groups, rates = layer_rates(model, 0.1, 0.5)
    assert rates == pytest.approx({"depth-0": 0.0125, "depth-1": 0.025, "depth-2": 0.05, "depth-3": 0.1})
    of = {id(p): name for name, group in groups.items() for p in group}
    names = {name: of[id(p)] for name, p in model.named_parameters()}
    assert names["pos_embed"] == names["cls_token"] == names["patch_embed.proj.weight"] == "depth-0"
    assert names["blocks.0.attn.qkv.weight"] == "depth-1" and names["blocks.1.mlp.fc2.bias"] == "depth-2"
    assert names["norm.weight"] == names["head.weight"] == "depth-3"
    optimizer = make_optimizer(groups, rates)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))


@pytest.mark.parametrize("build", [swin, convnext, clip])
def test_rates_of_other_backbones_rise_with_depth(build: type) -> None:
    model = build()
    groups, rates = layer_rates(model, 1.0, 0.5)
    depth = {id(p): int(name.removeprefix("depth-")) for name, group in groups.items() for p in group}
    assert len(depth) == len(list(model.parameters()))
    blocks = [n for n in dict(model.named_parameters()) if "blocks." in n]
    assert [depth[id(model.get_parameter(n))] for n in blocks] == sorted(
        depth[id(model.get_parameter(n))] for n in blocks
    )
    assert min(depth.values()) == 0 and rates[f"depth-{max(depth.values())}"] == 1.0


def test_frozen_blocks_stay_and_others_move() -> None:
    model = vit()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    freeze_below(model, 1)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    F.cross_entropy(model(inputs("vit")), torch.arange(4)).backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        frozen = name.startswith(("blocks.0.", "patch_embed", "cls_token", "pos_embed"))
        assert torch.equal(parameter, before[name]) == frozen, name
    with pytest.raises(UserError, match="there are 2 blocks, 3 cannot be frozen"):
        freeze_below(vit(), 3)


@pytest.mark.parametrize("backbone", ["vit", "swin", "convnext", "clip"])
def test_only_the_top_block_starts_anew(backbone: str) -> None:
    model, other = BACKBONES[backbone][0](), BACKBONES[backbone][0]()
    (name,) = reinitialise(model, 1, seed=3)
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, other.get_parameter(n))}
    assert changed and all(n.startswith(name + ".") for n in changed)
    reinitialise(other, 1, seed=3)
    assert all(torch.equal(p, other.get_parameter(n)) for n, p in model.named_parameters())


def test_queue_wraps_around() -> None:
    queue = FeatureQueue(5, 2)
    for start in (0, 3, 6):
        rows = torch.arange(start, start + 3).float()[:, None].expand(-1, 2)
        queue.push(rows, -rows, torch.arange(start, start + 3))
    assert queue.labels.tolist() == [5, 6, 7, 8, 4] and len(queue) == 5
    assert torch.equal(queue.current[:, 0], queue.labels.float()) and torch.equal(
        queue.pretrained, -queue.current
    )
    with pytest.raises(UserError, match="does not fit a queue of 5"):
        queue.push(torch.zeros(6, 2), torch.zeros(6, 2), torch.zeros(6, dtype=torch.long))


@pytest.mark.parametrize("dim", [2, 5])
def test_procrustes_finds_a_known_rotation(dim: int) -> None:
    torch.manual_seed(0)
    true = torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64)).Q
    true[0] *= torch.sign(torch.linalg.det(true))
    source = torch.randn(40, dim, dtype=torch.float64)
    source -= source.mean(0)
    torch.testing.assert_close(procrustes(source, source @ true.T), true, rtol=0, atol=1e-10)
    mirrored = procrustes(source, source * torch.tensor([-1.0, *[1.0] * (dim - 1)], dtype=torch.float64))
    assert float(torch.linalg.det(mirrored)) == pytest.approx(1.0)


def test_calibration_brings_classes_to_their_centres() -> None:
    torch.manual_seed(0)
    z0 = F.normalize(torch.randn(60, 4), dim=1)
    turn = torch.linalg.qr(torch.randn(4, 4)).Q
    turn[0] *= torch.sign(torch.linalg.det(turn))
    labels = torch.arange(60) % 3
    z = 2.5 * F.normalize(z0 @ turn.T, dim=1)
    moved = calibrated(z, z0, labels, torch.zeros(3, 4))
    torch.testing.assert_close(moved, z, rtol=1e-3, atol=1e-3)
    one = calibrated(z[:2], z0[:2], torch.tensor([0, 1]), torch.randn(3, 4))
    assert one.shape == (2, 4) and torch.isfinite(one).all(), "a class with one entry keeps its place"


def test_loss_against_numpy_and_without_gradient_into_the_queue() -> None:
    torch.manual_seed(0)
    head, z, labels = nn.Linear(4, 3), torch.randn(5, 4, requires_grad=True), torch.tensor([0, 1, 2, 1, 0])
    queue = FeatureQueue(8, 4)
    plain, parts = dr_tune_loss(head, z, labels, queue)
    assert torch.equal(plain, F.cross_entropy(head(z), labels)) and set(parts) == {"task"}
    queue.push(torch.randn(6, 4), torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2]))
    loss, parts = dr_tune_loss(head, z, labels, queue, lambda current, pretrained, old, weight: pretrained)
    rows = np.concatenate([z.detach().numpy(), queue.pretrained[:6].numpy()])
    logits = rows @ head.weight.detach().numpy().T + head.bias.detach().numpy()
    wanted = np.concatenate([labels.numpy(), queue.labels[:6].numpy()])
    want = np.mean([np.log(np.exp(row).sum()) - row[y] for row, y in zip(logits, wanted, strict=True)])
    assert loss.item() == pytest.approx(want, rel=1e-5)
    assert loss.item() == pytest.approx((5 * float(parts["task"]) + 6 * float(parts["queue"])) / 11, rel=1e-5)
    loss, _ = dr_tune_loss(head, z, labels, queue)
    loss.backward()
    assert z.grad is not None and head.weight.grad is not None and not queue.current.requires_grad
