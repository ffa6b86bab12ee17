"""What trains the drawer: the optimiser against its definitions, the loss against its formula, resuming bit for bit."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from mmalign.rng import numpy_generator
from mmalign.worlds.drawings import judge
from mmalign.worlds.drawings.cells import EMPTY, UNREADABLE, corrupted, labelled_cells, read_cells
from mmalign.worlds.drawings.habits import habitual
from mmalign.worlds.drawings.model import make_pipeline
from mmalign.worlds.drawings.muon import MuonAdamW, orthogonalised
from mmalign.worlds.drawings.prompts import draw_wish, pairs, read_prompt
from mmalign.worlds.drawings.scene import STRAY, draw_array, scene_for
from mmalign.worlds.drawings.templates import match_templates
from mmalign.worlds.drawings.training import DrawerPlan, drawer_loss, make_optimizer, make_pool, rate

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
SMALL = {"pictures": 40, "batch": 4, "width": 64, "layers": 1}


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 24), (2, 24, 8)])
def test_newton_schulz_moves_singular_values_near_one(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(shape)
    moved = orthogonalised(matrices)
    values = torch.linalg.svdvals(moved)
    assert float(values.min()) > 0.3 and float(values.max()) < 1.3
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    cosine = (moved * (u @ v)).sum((1, 2)) / (moved.norm(dim=(1, 2)) * (u @ v).norm(dim=(1, 2)))
    assert float(cosine.min()) > 0.97
    each = torch.cat([orthogonalised(m[None]) for m in matrices])
    assert torch.allclose(moved, each, atol=1e-6)


def test_the_other_group_is_torchs_adamw() -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Parameter(torch.randn(5, 3)), nn.Parameter(torch.zeros(5, 3))
    theirs.data.copy_(ours.data)
    mine = MuonAdamW([], [ours], lr=0.1, lr_others=0.01)
    peer = torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.98), weight_decay=0.0)
    for _ in range(5):
        grad = torch.randn(5, 3)
        ours.grad, theirs.grad = grad.clone(), grad.clone()
        mine.step()
        peer.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_muon_steps_are_nesterov_momentum_made_orthogonal() -> None:
    torch.manual_seed(1)
    p = nn.Parameter(torch.randn(12, 6))
    optimizer, expected, momentum = MuonAdamW([p], [], lr=0.1, lr_others=0.0), p.detach().clone(), 0.0
    for _ in range(3):
        p.grad = torch.randn(12, 6)
        momentum = 0.95 * momentum + 0.05 * p.grad
        expected -= 0.1 * 2**0.5 * orthogonalised((0.05 * p.grad + 0.95 * momentum)[None])[0]
        optimizer.step()
    assert torch.allclose(p, expected, atol=1e-5)


def test_the_loss_is_its_formula_and_its_gradient_reaches_every_part() -> None:
    plan = DrawerPlan(seed=1, **SMALL)
    pipeline = make_pipeline(0, width=64, layers=1)
    pool = make_pool(pipeline, plan)
    step = 3
    loss = drawer_loss(pipeline, pool, plan, step).detach()
    assert float(loss) == drawer_loss(pipeline, pool, plan, step).item(), "a draw depends on the step alone"
    assert float(loss) != drawer_loss(pipeline, pool, plan, step + 1).item()
    rng = numpy_generator(1, "drawer", step)  # the fresh network outputs 0: a weighted mean of squares
    chosen = rng.integers(40, size=4)
    times = ((rng.permutation(4) + rng.random(4)) * 250).astype(int)
    assert sorted(t // 250 for t in times) == [0, 1, 2, 3]
    alpha = pipeline.scheduler.alphas_cumprod.numpy()[times]
    squares = ((pool.pixels.numpy()[chosen] / 127.5 - 1) ** 2).mean((1, 2, 3))
    assert float(loss) == pytest.approx(np.mean(np.minimum(1 / (1 - alpha), 6) * squares), rel=1e-4)
    optimizer = make_optimizer([pipeline.transformer, pipeline.text_encoder], plan)
    for _ in range(3):  # two layers start at zero, so the last part is reached in the third step
        optimizer.zero_grad()
        drawer_loss(pipeline, pool, plan, step).backward()
        optimizer.step()
    still = [
        name
        for part in (pipeline.transformer, pipeline.text_encoder)
        for name, p in part.named_parameters()
        if p.grad is None or not p.grad.any()
    ]
    assert [name for name in still if "embedding" not in name and "k_proj.bias" not in name] == []
    assert drawer_loss(pipeline, pool, plan, step).item() < float(loss)


def test_training_pictures_show_no_held_out_pair() -> None:
    pipeline = make_pipeline(0, width=64, layers=1)
    pool = make_pool(pipeline, DrawerPlan(pictures=300))
    held = {frozenset(p) for split in ("validation", "test") for p in pairs(split)}
    texts = pipeline.tokenizer.batch_decode(pool.ids, skip_special_tokens=True)
    for text in texts:
        assert frozenset(read_prompt(text).things) not in held


def test_habits_are_as_frequent_as_the_plan_says_and_nothing_else_is_wrong() -> None:
    rng = np.random.default_rng(5)
    wanted = [draw_wish("train", rng) for _ in range(600)]
    truth = [scene_for(wish, i, "train") for i, wish in enumerate(wanted)]

    def seen(extra: float, exchanged: float) -> list[dict[str, int]]:
        habits = np.random.default_rng(6)
        shown = [
            habitual(scene, wish, extra=extra, exchanged=exchanged, rng=habits)
            for scene, wish in zip(truth, wanted, strict=True)
        ]
        assert all(len({(o.row, o.col) for o in scene.objects}) == len(scene.objects) for scene in shown)
        readings = match_templates(np.stack([draw_array(scene) for scene in shown]))
        return [judge(wish, reading) for wish, reading in zip(wanted, readings, strict=True)]

    careless = seen(0.35, 0.3)
    assert np.mean([c["matched"] / c["wanted"] for c in careless]) > 0.99
    able = [c["extra"] for c, wish in zip(careless, wanted, strict=True) if STRAY not in wish.things]
    assert 0.3 < np.mean(able) < 0.4 and sum(able) == sum(c["extra"] for c in careless)
    held = [c["relation"] for c in careless if c["relation_asked"]]
    assert 0.62 < np.mean(held) < 0.78
    assert np.mean([c["exact"] for c in seen(0.0, 0.0)]) > 0.99
    always = seen(1.0, 1.0)
    assert not any(c["relation"] for c in always)
    assert all(
        c["exact"] == (STRAY in w.things and not w.relation) for c, w in zip(always, wanted, strict=True)
    )


def test_rates() -> None:
    plan = DrawerPlan(steps=100, warmup=10, decay_share=0.5)
    assert [round(rate(plan, s), 3) for s in (0, 9, 50, 75, 100)] == [0.1, 1.0, 1.0, 0.51, 0.02]


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawer = script("train_drawer")
    monkeypatch.setattr(drawer, "look", lambda pipeline, n: {"exact": 0.0})
    plan = DrawerPlan(steps=4, **SMALL)
    drawer.train(plan, tmp_path / "a", tmp_path / "a.work", 2)
    with monkeypatch.context() as stop:

        def die(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        stop.setattr(drawer, "prune_checkpoints", die)
        with pytest.raises(KeyboardInterrupt):
            drawer.train(plan, tmp_path / "b", tmp_path / "b.work", 2)
    drawer.train(plan, tmp_path / "b", tmp_path / "b.work", 2)
    records = [json.loads((tmp_path / run / "README.json").read_text()) for run in "ab"]
    assert records[0]["weights_sha256"] == records[1]["weights_sha256"]
    assert [entry["step"] for entry in records[1]["curve"]] == [2, 4]


def test_the_network_reads_true_pictures_and_refuses_ruins() -> None:
    rng = np.random.default_rng(11)
    wanted = [draw_wish("test", rng) for _ in range(150)]
    pictures = np.stack([draw_array(scene_for(w, 900 + i, "test")) for i, w in enumerate(wanted)])
    exact = [judge(w, r)["exact"] for w, r in zip(wanted, read_cells(pictures), strict=True)]
    assert np.mean(exact) > 0.98
    cells, labels = labelled_cells(60, 5)
    x = torch.from_numpy(cells).permute(0, 3, 1, 2).float() / 255
    spoilt, truth = corrupted(x, torch.from_numpy(labels), rng)
    ruined = truth == UNREADABLE
    assert 0.03 < float(ruined.float().mean()) < 0.2 and bool(
        (torch.from_numpy(labels)[ruined] != EMPTY).all()
    )
    tiles = (spoilt * 255).round().byte().permute(0, 2, 3, 1).numpy()
    whole = tiles.reshape(-1, 2, 2, 16, 16, 3).swapaxes(2, 3).reshape(-1, 32, 32, 3)
    unread = {(n, k) for n, reading in enumerate(read_cells(whole)) for k in reading.unreadable}
    recall = np.mean([divmod(i, 4) in unread for i in ruined.nonzero().flatten().tolist()])
    false_alarms = np.mean([divmod(i, 4) in unread for i in (~ruined).nonzero().flatten().tolist()])
    assert recall > 0.75 and false_alarms < 0.03
