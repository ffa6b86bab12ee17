"""CLIP-type scores and ImageReward: the same number as the owner's model, or as the released forward pass by hand."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmalign.errors import UserError
from mmalign.rewards.pictures.clip_scores import Aesthetic, HPSv2, PickScore
from mmalign.rewards.pictures.image_reward import ImageReward
from mmalign.rewards.pictures.tensors import CLIP_MEAN, CLIP_STD, Preparation, as_picture
from mmalign.types import Row
from tests.rewards.pictures_build import (
    PROMPTS,
    WORDS,
    image_reward_folder,
    open_clip_folder,
    pictures,
    rollout,
    transformers_clip,
)

ROWS = [Row("a", PROMPTS[0]), Row("b", PROMPTS[1])]


def gradient_reaches(score: object, rows: list[Row], side: int) -> None:
    """Finite differences along a random direction agree with the gradient, in float64-free tolerance."""
    x = pictures(len(rows), side, seed=5).requires_grad_()
    score(rows, x).sum().backward()  # type: ignore[operator]
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)) * 1e-2
    with torch.no_grad():
        up, down = score(rows, x + direction).sum(), score(rows, x - direction).sum()  # type: ignore[operator]
    assert float((x.grad * direction).sum()) == pytest.approx(float(up - down) / 2, rel=0.03, abs=1e-5)


@pytest.mark.parametrize("side", [16, 48, (40, 56)])
def test_preparation_is_torchvisions_up_to_eight_bits(side: int | tuple[int, int]) -> None:
    from torchvision import transforms

    height, width = (side, side) if isinstance(side, int) else side
    smooth = F.interpolate(torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(0)), (height, width),
                           mode="bicubic").clamp(0.2, 0.8)  # fmt: skip
    eight = as_picture(smooth[0])
    mine = Preparation(32)(torch.from_numpy(np.array(eight)).permute(2, 0, 1)[None].float() / 255)[0]
    theirs = transforms.Compose([
        transforms.Resize(32, interpolation=transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(32),
        transforms.ToTensor(), transforms.Normalize(CLIP_MEAN, CLIP_STD)])(eight)  # fmt: skip
    assert float((mine - theirs).abs().max()) < 1.2 / 255 / min(CLIP_STD)  # two roundings


def test_pickscore_is_scaled_cosine_of_the_owners_model(tmp_path: Path) -> None:
    model = transformers_clip(tmp_path)
    reward = PickScore(str(tmp_path))
    shown = pictures(2, 32)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (CLIP_MEAN, CLIP_STD))
    ids = [[WORDS.index(word) for word in prompt.split()] for prompt in PROMPTS]
    with torch.no_grad():
        out = [model(input_ids=torch.tensor([line]), pixel_values=((shown - mean) / std)[k : k + 1])
               for k, line in enumerate(ids)]  # fmt: skip
    wanted = torch.stack([found.logits_per_image[0, 0] for found in out])
    assert torch.allclose(reward.score(ROWS, shown), wanted, atol=1e-4)
    assert float(reward.encoder.scale) == pytest.approx(math.exp(2.6592), rel=1e-4)
    gradient_reaches(reward.score, ROWS, 32)


def test_hpsv2_is_the_plain_cosine_of_open_clip(tmp_path: Path) -> None:
    import open_clip

    model = open_clip_folder(tmp_path)
    reward, shown = HPSv2(str(tmp_path)), pictures(2, 32)
    mean, std = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(list(PROMPTS))
    with torch.no_grad():
        images = F.normalize(model.encode_image((shown - mean) / std), dim=-1)
        texts = F.normalize(model.encode_text(tokens), dim=-1)
    assert torch.allclose(reward.score(ROWS, shown), (images @ texts.T).diagonal(), atol=1e-5)
    paid = reward(rollout([as_picture(x) for x in shown]))
    assert paid.per_step[:, :1].abs().max() == 0 and paid.per_step[:, 1].abs().min() > 0
    gradient_reaches(reward.score, ROWS, 32)


@pytest.mark.parametrize("deep", [False, True])
def test_aesthetic_head_reads_unit_features(tmp_path: Path, deep: bool) -> None:
    transformers_clip(tmp_path)
    rng = torch.Generator().manual_seed(2)
    sizes = (16, 8, 4, 1) if deep else (16, 1)
    names = ["layers.0.", "layers.2.", "layers.4."] if deep else [""]
    head = {}
    for name, n, m in zip(names, sizes[:-1], sizes[1:], strict=True):
        head |= {
            f"{name}weight": torch.randn(m, n, generator=rng),
            f"{name}bias": torch.randn(m, generator=rng),
        }
    save_file(head, tmp_path / "head.safetensors")
    reward, shown = Aesthetic(str(tmp_path), str(tmp_path / "head.safetensors")), pictures(2, 32)
    x = reward.encoder.images(shown)
    assert torch.allclose(x.norm(dim=-1), torch.ones(2), atol=1e-5)
    wanted = x.numpy()
    for name in names:
        wanted = wanted @ head[f"{name}weight"].numpy().T + head[f"{name}bias"].numpy()
    assert reward.score(ROWS, shown).numpy() == pytest.approx(wanted[:, 0], abs=1e-4)
    gradient_reaches(reward.score, ROWS, 32)
    save_file({key: value for key, value in head.items() if key != "bias" and key != "layers.2.bias"},
              tmp_path / "short.safetensors")  # fmt: skip
    with pytest.raises(UserError, match=r"has no '(layers\.2\.)?bias'"):
        Aesthetic(str(tmp_path), str(tmp_path / "short.safetensors"))


def released_forward(t: dict[str, Tensor], x: Tensor, ids: Tensor, known: Tensor) -> Tensor:
    """ImageReward's forward pass on the released keys, by hand."""

    def linear(name: str, h: Tensor) -> Tensor:
        return h @ t[f"{name}.weight"].T + t[f"{name}.bias"]

    def norm(name: str, h: Tensor, eps: float) -> Tensor:
        return F.layer_norm(h, h.shape[-1:], t[f"{name}.weight"], t[f"{name}.bias"], eps)

    def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, bias: Tensor | float = 0.0) -> Tensor:
        q, k, v = (y.unflatten(-1, (heads, -1)).transpose(1, 2) for y in (q, k, v))
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + bias).softmax(-1)
        return (weights @ v).transpose(1, 2).flatten(2)

    top = "blip.visual_encoder."
    h = (
        F.conv2d(x, t[f"{top}patch_embed.proj.weight"], t[f"{top}patch_embed.proj.bias"], stride=8)
        .flatten(2)
        .transpose(1, 2)
    )
    h = torch.cat([t[f"{top}cls_token"].expand(len(x), -1, -1), h], 1) + t[f"{top}pos_embed"]
    for k in range(2):
        at = f"{top}blocks.{k}."
        q, key, v = linear(f"{at}attn.qkv", norm(f"{at}norm1", h, 1e-6)).chunk(3, -1)
        h = h + linear(f"{at}attn.proj", attend(q, key, v, 1))
        h = h + linear(f"{at}mlp.fc2", F.gelu(linear(f"{at}mlp.fc1", norm(f"{at}norm2", h, 1e-6))))
    seen = norm(f"{top}norm", h, 1e-6)
    top = "blip.text_encoder."
    hidden = (1.0 - known[:, None, None].float()) * -1e4
    e = (
        t[f"{top}embeddings.word_embeddings.weight"][ids]
        + t[f"{top}embeddings.position_embeddings.weight"][: ids.shape[1]]
    )
    e = norm(f"{top}embeddings.LayerNorm", e, 1e-12)
    for k in range(2):
        at = f"{top}encoder.layer.{k}."
        for kind, source, bias in (("attention", None, hidden), ("crossattention", seen, 0.0)):
            own = e if source is None else source
            q, key, v = (
                linear(f"{at}{kind}.self.query", e),
                linear(f"{at}{kind}.self.key", own),
                linear(f"{at}{kind}.self.value", own),
            )
            e = norm(
                f"{at}{kind}.output.LayerNorm",
                e + linear(f"{at}{kind}.output.dense", attend(q, key, v, 2, bias)),
                1e-12,
            )
        wide = F.gelu(linear(f"{at}intermediate.dense", e))
        e = norm(f"{at}output.LayerNorm", e + linear(f"{at}output.dense", wide), 1e-12)
    score = e[:, 0]
    for k in (0, 2, 4, 6, 7):
        score = linear(f"mlp.layers.{k}", score)
    return (score[:, 0] - 0.16717362830052426) / 1.0333394966054072


def test_imagereward_is_the_released_forward_pass(tmp_path: Path) -> None:
    tensors = image_reward_folder(tmp_path)
    reward, shown = ImageReward(str(tmp_path)), pictures(2, 32)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (CLIP_MEAN, CLIP_STD))
    ids = torch.zeros(2, 35, dtype=torch.long)
    for k, prompt in enumerate(PROMPTS):
        line = [2, *(WORDS.index(word) for word in prompt.split()), 3]
        ids[k, : len(line)] = torch.tensor(line)
    wanted = released_forward(tensors, (shown - mean) / std, ids, ids != 0)
    assert torch.allclose(reward.score(ROWS, shown), wanted, atol=2e-4)
    long = [Row("c", " ".join(["red"] * 60)), Row("d", " ".join(["red"] * 33 + ["circle"] * 9))]
    same = reward.score(long, shown[:1].expand(2, -1, -1, -1))
    assert float(same[0]) == float(same[1]), "35 tokens are read, of both the same ones"
    gradient_reaches(reward.score, ROWS, 32)


def test_a_file_that_lacks_a_key_is_refused_by_name(tmp_path: Path) -> None:
    transformers_clip(tmp_path / "clip")
    file = tmp_path / "clip" / "model.safetensors"
    tensors = load_file(file)
    del tensors["visual_projection.weight"]
    save_file(tensors, file)
    with pytest.raises(UserError, match=r"model\.safetensors: has no 'visual_projection\.weight'"):
        PickScore(str(tmp_path / "clip"))
    open_clip_folder(tmp_path / "open")
    shutil.copy(file, tmp_path / "open" / "open_clip_model.safetensors")
    with pytest.raises(UserError, match="is it another model's file"):
        HPSv2(str(tmp_path / "open"))
    with pytest.raises(UserError, match="needs a file of weights"):
        HPSv2()
    whole = image_reward_folder(tmp_path / "ir")
    whole.pop("blip.text_encoder.encoder.layer.1.crossattention.self.key.weight")
    torch.save(whole, tmp_path / "ir" / "ImageReward.pt")
    with pytest.raises(UserError, match=r"has no 'encoder\.layer\.1\.crossattention\.self\.key\.weight'"):
        ImageReward(str(tmp_path / "ir"))
    with pytest.raises(UserError, match="med_config"):
        ImageReward(str(tmp_path))
