"""The CLIP score: open_clip's own numbers, the gradient, any local checkpoint; the trainer's negatives and loss."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from mmalign import registry
from mmalign.errors import UserError
from mmalign.protocols import DifferentiableReward, Reward
from mmalign.rewards.clip import ClipContrast, ClipScore
from mmalign.types import Rollout, Row
from mmalign.worlds import drawings
from mmalign.worlds.drawings.dual import contrastive_loss, encoded, examples, fits, make_dual, negatives
from mmalign.worlds.drawings.prompts import draw_wish, read_prompt
from mmalign.worlds.drawings.scene import scene_for

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "train_drawing_clip.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights, written as the trainer writes the trained one."""
    spec = importlib.util.spec_from_file_location("train_drawing_clip", SCRIPT)
    assert spec and spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    made = tmp_path_factory.mktemp("clip")
    script.write(make_dual(0), made)
    return made


@pytest.fixture
def reward(folder: Path) -> ClipScore:
    return ClipScore(str(folder))


def tensors(pictures: list[object]) -> torch.Tensor:
    stacked = np.stack([np.asarray(p) for p in pictures])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 255


def test_it_is_open_clips_own_model(reward: ClipScore, folder: Path) -> None:
    row = drawings.rows("test", 1, 0)[0]
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    with torch.no_grad():
        image = model.eval().encode_image(preprocess(row.completion)[None], normalize=True)
        text = model.encode_text(tokenizer([row.prompt]), normalize=True)
    assert isinstance(model, open_clip.CLIP)
    ours = reward.score([row], tensors([row.completion]))
    assert float(ours) == pytest.approx(float((image * text).sum()), abs=1e-5)


def test_the_gradient_is_that_of_finite_differences(folder: Path) -> None:
    reward = ClipScore(str(folder), scale=3.0)
    reward.encoder.model.double()
    rows = drawings.rows("validation", 2, 1, "prompt")
    torch.manual_seed(0)
    pictures = torch.rand(2, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    direction = torch.randn_like(pictures)
    (grad,) = torch.autograd.grad(reward.score(rows, pictures).sum(), pictures)
    with torch.no_grad():
        up, down = (reward.score(rows, pictures + s * 1e-5 * direction).sum() for s in (1, -1))
    assert float((grad * direction).sum()) == pytest.approx(float((up - down) / 2e-5), rel=1e-3)
    assert float(grad.abs().max()) > 0


def test_a_rollout_is_paid_on_its_last_step(reward: ClipScore) -> None:
    rows = drawings.rows("validation", 3, 2)
    mask = torch.ones(3, 4, dtype=torch.bool)
    mask[:, 3] = False
    rollout = Rollout(tuple(rows), torch.zeros(3, 4), mask, torch.ones(3, dtype=torch.bool), torch.arange(3))
    paid = reward(rollout)
    expected = reward.score(rows, tensors([row.completion for row in rows]))
    assert torch.allclose(paid.per_step[:, 2], expected, atol=1e-6)
    assert torch.count_nonzero(paid.per_step) == 3
    assert isinstance(reward, Reward) and isinstance(reward, DifferentiableReward)
    assert registry.load("rewards", "clip") is ClipScore


def test_contrast_pays_nothing_for_what_every_prompt_likes(reward: ClipScore, folder: Path) -> None:
    contrast = ClipContrast(str(folder), scale=2.0)
    rows = drawings.rows("validation", 4, 2)
    pictures = tensors([row.completion for row in rows])
    cosines = torch.stack([reward.score([row] * 4, pictures) for row in rows])  # [prompt, picture]
    own = contrast.score(rows, pictures)
    assert torch.allclose(own, 2 * (cosines.diagonal() - cosines.mean(0)), atol=1e-5)
    turned = [contrast.score([*rows[k:], *rows[:k]], pictures) for k in range(4)]
    assert torch.allclose(sum(turned), torch.zeros(4), atol=1e-5), (
        "scored for every prompt in turn, a picture earns 0"
    )
    with pytest.raises(UserError, match="one prompt has no other"):
        contrast.score([rows[0]] * 4, pictures)
    assert own.abs().max() > 1e-3 and isinstance(contrast, DifferentiableReward)


def test_contrast_in_a_rollout_is_with_all_its_prompts(folder: Path) -> None:
    rows = drawings.rows("validation", 5, 2)
    mask = torch.ones(5, 2, dtype=torch.bool)
    rollout = Rollout(tuple(rows), torch.zeros(5, 2), mask, mask[:, 0], torch.arange(5))
    expected = ClipContrast(str(folder)).score(rows, tensors([row.completion for row in rows]))
    for batch_size in (2, 64):
        paid = ClipContrast(str(folder), batch_size=batch_size)(rollout)
        assert torch.allclose(paid.per_step[:, 1], expected, atol=1e-5)
        assert list(paid.parts) == ["clip_contrast"]


def test_any_local_checkpoint_serves(tmp_path: Path, folder: Path) -> None:
    torch.manual_seed(0)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"] |= {"embed_dim": 32}
    for file in folder.glob("tokenizer*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    other = open_clip.CLIP(**config["model_cfg"])
    save_file(other.state_dict(), tmp_path / "open_clip_model.safetensors")
    save_file({k: v + 0.01 for k, v in other.state_dict().items()}, tmp_path / "tuned.safetensors")
    rows = drawings.rows("validation", 2, 2)
    pictures = tensors([row.completion for row in rows])
    scores = [
        source.score([Row("a", row.prompt) for row in rows], pictures)
        for source in (
            ClipScore(str(tmp_path)),
            ClipScore(str(tmp_path), str(tmp_path / "tuned.safetensors")),
            ClipScore(str(folder)),
        )
    ]
    assert all((scores[i] - scores[j]).abs().max() > 1e-3 for i, j in ((0, 1), (0, 2), (1, 2)))
    with pytest.raises(UserError, match="ViT-B-32"):
        ClipScore("ViT-B-32")
    with pytest.raises(UserError, match="scale"):
        ClipScore(str(folder), scale=0.0)


def test_negatives_are_false_and_other_true_texts_are_no_negatives(folder: Path) -> None:
    rng = np.random.default_rng(2)
    for i in range(100):
        wish = draw_wish("train", rng)
        scene = scene_for(wish, i, "train")
        near = negatives(wish, scene, rng)
        assert fits(wish, scene) and near
        for other in near:
            assert not fits(other, scene) and read_prompt(other.text) == other
    batch = examples(24, 3)
    assert batch.true[range(24), range(24)].all() and not batch.true[24:].diagonal().any()
    model = make_dual(0)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    tokens = tokenizer(list(batch.texts))
    images, texts = (v.detach() for v in encoded(model, tokens, batch.pixels))
    loss = contrastive_loss(images, texts, model.logit_scale.exp(), batch)
    scores = (model.logit_scale.exp().detach() * images @ texts.T).numpy().astype(float)
    expected = 0.0
    for i in range(24):
        row = [scores[i, k] for k in range(len(batch.texts)) if k == i or not batch.true[i, k]]
        column = [scores[m, i] for m in range(48) if m == i or not batch.true[m, i]]
        expected += sum(np.log(np.exp(v).sum()) - scores[i, i] for v in (row, column)) / 48
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)
