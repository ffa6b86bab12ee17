"""The patterns world: solids, shapes and glyphs are where their numbers say, and the shipped backbone is what it says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mmalign.errors import UserError
from mmalign.tuners.backbones import load_backbone, normalisation
from mmalign.worlds.patterns.backbone import MINI_VIT, SMALL_VIT, model_args, ship
from mmalign.worlds.patterns.canvas import SIDE, cover, grid, hsv
from mmalign.worlds.patterns.glyphs import ATTRIBUTES, glyph_pictures
from mmalign.worlds.patterns.shapes import SHAPES, shape_distance
from mmalign.worlds.patterns.solids import solid
from mmalign.worlds.scenes.ship import file_sha256


def test_hsv_is_the_usual_one() -> None:
    import colorsys

    rng = np.random.default_rng(0)
    h, s, v = rng.random((3, 50)).astype(np.float32)
    want = [colorsys.hsv_to_rgb(*map(float, row)) for row in zip(h, s, v, strict=True)]
    np.testing.assert_allclose(hsv(h, s, v), want, atol=1e-5)


def test_areas_of_shapes() -> None:
    x, y = grid()
    one = np.ones((1, 1, 1), np.float32)
    area = {}
    for kind, name in enumerate(SHAPES):
        mask = cover(shape_distance(np.array([kind]), x, y, 0.6 * one, 0 * one))
        area[name] = float(mask.sum()) * (2 / SIDE) ** 2
    assert area["disc"] == pytest.approx(np.pi * (0.95 * 0.6) ** 2, rel=0.05)
    assert area["square"] == pytest.approx(0.96**2, rel=0.05)
    assert area["bar"] == pytest.approx(4 * 0.63 * 0.216, rel=0.05)
    assert all(0.1 < value < 1.3 for value in area.values())


def test_a_solid_seen_from_the_other_side_is_mirrored_in_outline_but_not_in_shade() -> None:
    halves = np.array([[0.35, 0.25, 0.5]], np.float32).repeat(2, 0)
    tower = np.array([[0.2, 0.15, 0.15]], np.float32).repeat(2, 0)
    mask, shade = solid(np.array([0.3, -0.3], np.float32), np.array([0.5, 0.5], np.float32), halves, tower)
    np.testing.assert_array_equal(mask[0], mask[1][:, ::-1])
    assert not np.array_equal(shade[0], shade[1][:, ::-1])
    front, back = solid(np.array([0.0, np.pi], np.float32), np.zeros(2, np.float32), halves, tower)[0]
    np.testing.assert_array_equal(front, back)
    assert front.sum() * (2 / SIDE) ** 2 == pytest.approx(4 * 0.35 * 0.25 + 4 * 0.2 * 0.15, rel=0.15)


@pytest.mark.parametrize(("name", "folder"), [("mini-vit", MINI_VIT), ("small-vit", SMALL_VIT)])
def test_the_shipped_backbones_load_and_know_their_pictures(name: str, folder: Path) -> None:
    record = json.loads((folder / "README.json").read_text())
    assert file_sha256(folder / "model.safetensors") == record["weights_sha256"]
    assert (folder / "model.safetensors").stat().st_size < 4_000_000
    model = load_backbone(name, 7)
    assert sum(p.numel() for n, p in model.named_parameters() if "head" not in n) == record["parameters"]
    assert model.get_submodule("head").weight.std().item() == pytest.approx(0.02, rel=0.3)  # type: ignore[union-attr]
    mean, std = normalisation(model)
    assert (mean.flatten().tolist(), std.flatten().tolist()) == ([0.5] * 3, [0.5] * 3)
    images, labels = glyph_pictures(1200, np.random.default_rng(5))
    x = (torch.from_numpy(images).float() / 255 - mean) / std
    with torch.no_grad():
        features = model.eval().forward_head(model.forward_features(x), pre_logits=True)  # type: ignore[operator]
    target = torch.nn.functional.one_hot(torch.from_numpy(labels["hue"]), ATTRIBUTES["hue"]).float()
    known = torch.cat([features, torch.ones(len(x), 1)], 1)
    weights = torch.linalg.lstsq(known[:800], target[:800]).solution
    right = (known[800:] @ weights).argmax(1) == torch.from_numpy(labels["hue"])[800:]
    assert float(right.float().mean()) > 0.9


def test_a_folder_of_ones_own_and_refusals(tmp_path: object) -> None:
    folder = tmp_path / "own"  # type: ignore[operator]
    state = {k: v for k, v in load_backbone("mini-vit", 2).state_dict().items() if not k.startswith("head.")}
    ship(state, folder, {"command": "none"}, model_args())
    a, b = load_backbone(f"local:{folder}", 3).state_dict(), load_backbone("mini-vit", 3).state_dict()
    assert all(torch.equal(a[name], b[name]) for name in state)
    assert torch.equal(load_backbone("mini-vit", 3).state_dict()["head.weight"], b["head.weight"])
    assert not torch.equal(load_backbone("mini-vit", 3, seed=1).state_dict()["head.weight"], b["head.weight"])
    for spec, says in (
        ("timm:vit_tiny_patch16_223", "did you mean"),
        ("timm:resnet18?pretained", "pretrained or nothing"),
        (f"local:{folder}/nothing", "has no config.json"),
        ("mini-vt", "no such name under backbones"),
    ):
        with pytest.raises(UserError, match=says):
            load_backbone(spec, 2)
