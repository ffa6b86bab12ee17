"""The owner library draws the same pictures: from the same noise, and after save and load."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmalign.engine.reference import Reference
from mmalign.modalities.diffusion.loading import PIPELINES
from mmalign.modalities.diffusion.policy import policy_of
from mmalign.rng import generator
from mmalign.types import Row

from diffusion_families import NOISE  # isort: skip

ROW = Row(id="one", prompt="a red circle left of a blue square")


def owner(folder: Path) -> Any:
    """The pipeline loaded by its own class, drawing by DDIM where it predicts noise."""
    kind = json.loads((folder / "model_index.json").read_text())["_class_name"]
    pipeline = getattr(importlib.import_module(PIPELINES[kind][0]), kind).from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def drawn_by_owner(name: str, pipeline: Any, start: torch.Tensor) -> np.ndarray:
    extra: dict[str, Any] = {"eta": 0.0} if name in NOISE else {}
    if name in ("sd", "sdxl", "pixart", "sd3"):
        extra |= {"negative_prompt": "green"}
    if name != "drawing":
        extra |= {"height": 16, "width": 16}
    if name in ("sd3", "flux", "pixart"):
        extra |= {"max_sequence_length": 77}
    if name == "pixart":
        extra |= {"use_resolution_binning": False, "clean_caption": False}
    if name == "flux":
        start = pipeline._pack_latents(start, 1, 4, 8, 8)
    made = pipeline(
        ROW.prompt, num_inference_steps=4, guidance_scale=2.0, latents=start, output_type="np", **extra
    )
    return made.images[0]


def ours(loaded: Any, model: Any) -> tuple[np.ndarray, torch.Tensor]:
    rollout = loaded.adapter.sample(model, [ROW], 1, generator(3), temperature=0.0)
    shape = policy_of(model).backbone.shape(loaded.adapter.options)
    start = torch.randn((5, *shape), generator=generator(3))[:1]
    return np.asarray(rollout.rows[0].completion, dtype=np.float32) / 255, start


def opened(open_family: Callable[..., Any], name: str) -> Any:
    extra = {"negative_prompt": "green"} if name not in ("drawing", "flux") else {}
    size = {} if name == "drawing" else {"height": 16, "width": 16}
    return open_family(name, guidance_scale=2.0, **extra, **size)


def test_a_picture_is_the_owners_from_the_same_noise(family: str, open_family: Callable[..., Any]) -> None:
    loaded = opened(open_family, family)
    picture, start = ours(loaded, loaded.model)
    assert np.abs(picture - drawn_by_owner(family, owner(loaded.folder), start)).max() <= 0.5 / 255 + 1e-4


@pytest.mark.parametrize("name", ["sd", "sd3", "drawing"])
def test_a_tuned_pipeline_is_saved_for_the_owner(
    name: str, open_family: Callable[..., Any], tmp_path: Path
) -> None:
    loaded = opened(open_family, name)
    before, _ = ours(loaded, loaded.model)
    tuned = loaded.adapter.attach_lora(loaded.model, r=2, alpha=6, target_modules="all-linear", seed=0)
    assert np.array_equal(ours(loaded, tuned)[0], before)
    for key, value in tuned.named_parameters():
        if "lora_B" in key:
            value.data.normal_(0, 0.2, generator=torch.Generator().manual_seed(1))
    picture, start = ours(loaded, tuned)
    assert not np.array_equal(picture, before)
    with tuned.disable_adapter():
        assert np.array_equal(ours(loaded, tuned)[0], before)
    loaded.adapter.save(tuned, tmp_path / "tuned")
    again = drawn_by_owner(name, owner(tmp_path / "tuned"), start)
    assert np.abs(picture - again).max() <= 1 / 255 + 1e-4
    if name == "drawing":
        return
    base = owner(loaded.folder)
    base.load_lora_weights(tmp_path / "tuned" / "lora", weight_name="pytorch_lora_weights.safetensors")
    assert np.abs(picture - drawn_by_owner(name, base, start)).max() <= 1 / 255 + 1e-4


def test_a_reference_shares_what_does_not_train(open_family: Callable[..., Any]) -> None:
    loaded = open_family("sd")
    policy, reference = loaded.model, Reference(loaded.adapter, loaded.model, "copy")
    other = reference._model
    assert other.backbone.denoiser is other.unet is not policy.unet
    assert next(other.vae.parameters()) is next(policy.vae.parameters())
    rows = loaded.adapter.sample(policy, [ROW], 1, generator(0)).rows
    before = reference.logp(loaded.adapter.collate(rows))
    with torch.no_grad():
        for weight in policy.unet.parameters():
            weight.mul_(1.5)
    assert torch.equal(reference.logp(loaded.adapter.collate(rows)), before)
    assert not torch.equal(loaded.adapter.logp(policy, loaded.adapter.collate(rows)).values, before)
