"""The embedded pipeline at a tiny size: standard shapes, DDIM written by hand, masks, saving and loading."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mmalign.worlds.drawings import BASES
from mmalign.worlds.drawings.model import CONTEXT, make_pipeline
from mmalign.worlds.drawings.pipeline import DrawingPipeline
from mmalign.worlds.drawings.prompts import draw_wish
from mmalign.worlds.drawings.training import pictures_of, probe
from mmalign.worlds.scenes.ship import file_sha256

PROMPTS = ["a red circle", "a blue square left of a green cross"]


@pytest.fixture(scope="module")
def pipeline() -> DrawingPipeline:
    made = make_pipeline(3, width=64, layers=2, text_width=32, text_layers=1)
    for (
        parameter
    ) in made.transformer.parameters():  # the fresh output layer is zero, which would hide everything
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    made.set_progress_bar_config(disable=True)
    return made


def by_hand(pipeline: DrawingPipeline, x: Tensor, steps: int, guidance: float) -> Tensor:
    """Deterministic DDIM on the definition, for a network that predicts the clean picture."""
    betas = pipeline.scheduler.betas.double()
    alpha_bar = torch.cumprod(1 - betas, 0)
    times = [round(1000 - k * 1000 / steps) - 1 for k in range(steps)]
    hidden, mask = pipeline.encode_prompt(PROMPTS)
    null, null_mask = pipeline.encode_prompt(["", ""])
    for k, t in enumerate(times):
        clean = pipeline.transformer(x, t, hidden, encoder_attention_mask=mask).sample
        if guidance != 1:
            free = pipeline.transformer(x, t, null, encoder_attention_mask=null_mask).sample
            clean = free + guidance * (clean - free)
        before = alpha_bar[times[k + 1]] if k + 1 < steps else torch.tensor(1.0).double()
        noise = (x - alpha_bar[t].sqrt() * clean) / (1 - alpha_bar[t]).sqrt()
        x = (before.sqrt() * clean + (1 - before).sqrt() * noise).float()
    return x


@torch.no_grad()
@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_sampling_is_ddim(pipeline: DrawingPipeline, guidance: float) -> None:
    start = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    drawn = pipeline(
        PROMPTS, num_inference_steps=5, eta=0.0, guidance_scale=guidance, latents=start, output_type="pt"
    ).images
    expected = (by_hand(pipeline, start, 5, guidance) / 2 + 0.5).clamp(0, 1)
    assert torch.allclose(drawn, expected, atol=2e-5)
    assert drawn.std() > 0.01


def test_zero_terminal_snr(pipeline: DrawingPipeline) -> None:
    assert float(pipeline.scheduler.alphas_cumprod[-1]) < 1e-9
    pipeline.scheduler.set_timesteps(10)
    assert pipeline.scheduler.timesteps.tolist() == [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]


@torch.no_grad()
def test_padding_is_never_read(pipeline: DrawingPipeline) -> None:
    hidden, mask = pipeline.encode_prompt(PROMPTS)
    assert mask.sum(1).tolist() == [5, CONTEXT] and hidden.shape == (2, CONTEXT, 32)
    x, t = torch.randn(2, 3, 32, 32), torch.tensor([10, 700])
    plain = pipeline.transformer(x, t, hidden, encoder_attention_mask=mask).sample
    spoilt = torch.where(mask[..., None], hidden, 100 * torch.randn_like(hidden))
    again = pipeline.transformer(x, t, spoilt, encoder_attention_mask=mask, return_dict=False)[0]
    assert torch.equal(plain, again)
    moved = pipeline.transformer(x, t, hidden.flip(0), encoder_attention_mask=mask.flip(0)).sample
    assert (moved - plain).abs().max() > 1e-4


def test_a_picture_depends_on_its_own_generator(pipeline: DrawingPipeline) -> None:
    def draw(seeds: list[int], prompts: list[str]) -> Tensor:
        generators = [torch.Generator().manual_seed(s) for s in seeds]
        return pipeline(prompts, 4, generator=generators, output_type="pt").images

    both = draw([5, 6], PROMPTS)
    assert torch.allclose(both[1:], draw([6], PROMPTS[1:]), atol=1e-5)
    assert (both[1:] - draw([7], PROMPTS[1:])).abs().max() > 1e-2


def test_saving_and_loading_without_remote_code(pipeline: DrawingPipeline, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path)
    loaded = DrawingPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    images = [
        each(PROMPTS, 3, generator=torch.Generator().manual_seed(2), output_type="pt").images
        for each in (pipeline, loaded)
    ]
    assert torch.equal(images[0], images[1])
    assert not list(tmp_path.rglob("*.bin")) and not list(tmp_path.rglob("*.py"))
    picture = loaded(PROMPTS[0], 2).images[0]
    assert picture.size == (32, 32) and picture.mode == "RGB"


def test_the_shipped_base_is_what_its_record_says_and_draws() -> None:
    folder = BASES[0]
    record = json.loads((folder / "README.json").read_text())
    for name, digest in record["weights_sha256"].items():
        assert file_sha256(folder / name) == digest
    assert sum(file.stat().st_size for file in folder.rglob("*")) < 10e6
    shipped = DrawingPipeline.from_pretrained(folder)
    assert {p.dtype for part in (shipped.transformer, shipped.text_encoder) for p in part.parameters()} == {
        torch.float32
    }
    rng = np.random.default_rng(5)
    wanted = [draw_wish("validation", rng) for _ in range(80)]
    figures = probe(wanted, pictures_of(shipped, [wish.text for wish in wanted], 3))
    assert figures["exact"] > record["validation"]["exact"] - 0.2  # three standard errors and more
    assert figures["bound_recall"] > 0.65
