"""One fit: the loop, the scores, what is prepared for it."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmalign.config.transfer import TransferConfig
from mmalign.engine.optim import learning_rate_factor
from mmalign.engine.transfer.fitting import Examples, FitPlan, fit, mean_iou, score, stacked
from mmalign.engine.transfer.memory import saved_bytes
from mmalign.engine.transfer.prepare import prepare
from mmalign.errors import UserError
from mmalign.rng import generator
from mmalign.tuners.dr_tune import FeatureQueue, calibrated, dr_tune_loss


def blobs(n: int, classes: int = 3, seed: int = 0) -> Examples:
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    centres = torch.randn(classes, 3, 16, 16, generator=torch.Generator().manual_seed(9))
    return Examples(centres[y] + torch.randn(n, 3, 16, 16, generator=g), y)


def vit(classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
    model = timm.models.vision_transformer.VisionTransformer(num_classes=classes, **sizes)
    nn.init.trunc_normal_(model.head.weight, std=0.02)
    return model


def config(name: str, **keys: object) -> TransferConfig:
    return TransferConfig.model_validate({"tuner": {"name": name, "probe_batch_size": 8}, **keys})


def test_fit_equals_a_plain_loop_of_adamw() -> None:
    data, plan = blobs(25), FitPlan(1e-2, epochs=2, batch_size=8, seed=3, stream=("a",))
    model, twin = (
        nn.Sequential(nn.Flatten(), nn.Linear(768, 3)),
        nn.Sequential(nn.Flatten(), nn.Linear(768, 3)),
    )
    twin.load_state_dict(model.state_dict())
    result = fit(model, data, plan)
    optimizer = torch.optim.AdamW(twin.parameters(), lr=1e-2, weight_decay=1e-4)
    step, losses = 0, []
    for epoch in range(2):
        order = torch.randperm(25, generator=generator(3, "a", "order", epoch))
        total = 0.0
        for rows in (order[:8], order[8:16], order[16:]):  # the last single example joins
            step += 1
            optimizer.param_groups[0]["lr"] = 1e-2 * learning_rate_factor(step, 6, 0.1)
            loss = F.cross_entropy(twin(data.x[rows]), data.y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(rows)
        losses.append(total / 25)
    assert result.steps == step == 6
    assert result.losses == pytest.approx(losses, rel=1e-5)
    torch.testing.assert_close(model[1].weight, twin[1].weight, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "share"), [("linear", 0.95), ("full", 0.3), ("lora", 0.7)])
def test_fit_learns_and_is_the_same_again(name: str, share: float) -> None:
    data, found = blobs(90), []
    for _ in range(2):
        ready = prepare(vit(), config(name), data, learning_rate=1e-2, seed=1)
        result = fit(ready.model, data, FitPlan(1e-2, epochs=8, batch_size=16), objective=ready.objective)
        found.append((result.losses, score(ready.model, blobs(90, seed=1), 3)))
    assert found[0] == found[1]
    assert found[0][0][-1] < share * found[0][0][0] and found[0][1] > 0.4
    assert result.is_finite


def test_a_head_alone_is_fitted_on_features_to_the_same_weights() -> None:
    from mmalign.engine.transfer.task import TaskRun, fitted
    from mmalign.protocols import TransferTask

    class Own(TaskRun):
        def model(self, seed: int) -> nn.Module:
            return vit()

    data = blobs(24)
    run = Own(config("linear", epochs=2, batch_size=8), None, TransferTask("t", "g", "classes", 3), "")  # type: ignore[arg-type]
    quick, done = fitted(run, data, 1e-2, 0)
    slow = prepare(vit(), run.cfg, data, learning_rate=1e-2, seed=0)
    whole = fit(slow.model, data, run.plan(1e-2, 0))
    assert done.losses == pytest.approx(whole.losses, rel=1e-5)
    torch.testing.assert_close(quick.model.head.weight, slow.model.head.weight, rtol=1e-4, atol=1e-6)
    assert all(
        torch.equal(a, b)
        for a, b in zip(quick.model.blocks.parameters(), vit().blocks.parameters(), strict=True)
    )


def test_counts_without_the_head() -> None:
    data, head = blobs(24), 16 * 3 + 3
    whole = sum(p.numel() for p in vit().parameters())
    assert [(p.trainable, p.head) for p in (prepare(vit(), config(n), data, learning_rate=1e-3, seed=0)
            for n in ("linear", "full"))] == [(0, head), (whole - head, head)]  # fmt: skip
    spt = {"name": "spt", "options": {"budget": 300, "rank": 1}, "probe_batch_size": 8}
    ready = prepare(vit(), config("x", tuner=spt), data, learning_rate=1e-3, seed=0)
    assert abs(ready.trainable - 300) <= 3 and ready.head == head
    side = prepare(vit(), config("lst"), data, learning_rate=1e-3, seed=0)
    assert side.head == 2 * 3 + 3 and side.trainable > 0


def test_train_policies() -> None:
    data = blobs(24)
    frozen = prepare(vit(), config("full", freeze_below=1), data, learning_rate=1e-3, seed=0)
    assert not any(p.requires_grad for p in frozen.model.blocks[0].parameters())
    assert all(p.requires_grad for p in frozen.model.blocks[1].parameters())
    decayed = prepare(vit(), config("full", layer_decay=0.5), data, learning_rate=1.0, seed=0)
    assert decayed.groups is not None and sorted(decayed.groups[1].values()) == [0.125, 0.25, 0.5, 1.0]
    anew = prepare(vit(), config("full", reinitialise=1), data, learning_rate=1e-3, seed=0)
    same = [
        torch.equal(a, b)
        for a, b in zip(anew.model.blocks[1].parameters(), vit().blocks[1].parameters(), strict=True)
    ]
    assert not all(same)


def test_dr_tune_equals_the_loss_on_a_queue_kept_by_hand() -> None:
    data = blobs(24)
    cfg = config("full", dr_tune={"queue": 12})
    ready, twin = prepare(vit(), cfg, data, learning_rate=1e-3, seed=4), vit()

    def features(model: nn.Module, x: Tensor) -> Tensor:
        return model.forward_head(model.forward_features(x), pre_logits=True)

    with torch.no_grad():
        before = features(twin.eval(), data.x)
    first = torch.randperm(24, generator=generator(4, "dr-tune"))[:12]
    queue = FeatureQueue(12, 16)
    queue.push(before[first], before[first], data.y[first])
    ready.model.eval()
    for rows in (torch.arange(5), torch.arange(5, 12)):
        z = features(twin, data.x[rows])
        want, _ = dr_tune_loss(twin.head, z, data.y[rows], queue, calibrated)
        got = ready.objective(ready.model, data.x[rows], data.y[rows], rows)
        torch.testing.assert_close(got, want)
        got.backward()
        queue.push(z, before[rows], data.y[rows])


def test_pixels_are_read_from_tokens_and_scored_by_overlap() -> None:
    data = Examples(torch.randn(4, 3, 16, 16), torch.randint(0, 3, (4, 16, 16)))
    ready = prepare(vit(), config("linear"), data, learning_rate=1e-3, seed=0)
    out = ready.model(data.x)
    assert out.shape == (4, 3, 16, 16)
    tokens = vit().forward_features(data.x)[:, 1:] @ vit().head.weight.T + vit().head.bias
    corner = out[:, :, 0, 0]  # bilinear enlargement keeps the corners
    torch.testing.assert_close(corner, tokens[:, 0])
    truth = torch.tensor([[[0, 0, 1, 1], [-1, -1, 2, 2]]])
    found = torch.tensor([[[0, 1, 1, 1], [0, 0, 2, 1]]])
    assert mean_iou(found, truth, 4) == pytest.approx((1 / 2 + 2 / 4 + 1 / 2) / 3)  # class 3 is not there


def test_saved_bytes_of_one_layer() -> None:
    model, x = nn.Sequential(nn.Linear(4, 5), nn.Tanh()), torch.randn(3, 4)
    assert saved_bytes(model, x) == 3 * 5 * 4  # the output of tanh alone


def test_splits_that_cannot_be_stacked() -> None:
    with pytest.raises(UserError, match="without a single example"):
        stacked([])  # type: ignore[arg-type]
    with pytest.raises(UserError, match="differ in shape"):
        stacked([(torch.zeros(3, 2, 2), torch.tensor(0)), (torch.zeros(3, 2, 3), torch.tensor(0))])  # type: ignore[arg-type]
    with pytest.raises(UserError, match="nothing of this model trains"):
        fit(nn.Linear(2, 2).requires_grad_(False), Examples(torch.zeros(2, 2), torch.zeros(2)), FitPlan(1e-3))
