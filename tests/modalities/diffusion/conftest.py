"""One tiny pipeline per family, built once per session."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mmalign.modalities.diffusion import DiffusionAdapter
from mmalign.types import Row

sys.path.insert(0, str(Path(__file__).parent))

from diffusion_families import NAMES, build

torch.set_num_threads(1)

PROMPTS = ("a red circle", "two blue square and a green cross", "a green cross left of a red square", "")


@dataclass(frozen=True)
class Loaded:
    """A loaded family and its folder."""

    name: str
    folder: Path
    adapter: DiffusionAdapter
    model: Any


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root, made = tmp_path_factory.mktemp("pipelines"), {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = build(name, root)
        return made[name]

    return folder


@pytest.fixture
def open_family(folders: Callable[[str], Path]) -> Callable[..., Loaded]:
    """Load a family with options: ``open_family("sd", eta=0.5)``."""

    def opened(name: str, **options: Any) -> Loaded:
        adapter = DiffusionAdapter()
        adapter.configure({"num_inference_steps": 4, **options})
        folder = folders(name)
        return Loaded(name, folder, adapter, adapter.load(str(folder)))

    return opened


@pytest.fixture(params=NAMES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def prompts() -> list[Row]:
    return [Row(id=f"row-{k}", prompt=text) for k, text in enumerate(PROMPTS[:3])]


@pytest.fixture
def pictures() -> list[Row]:
    """Rows with pictures that differ."""
    rng = np.random.default_rng(0)
    return [
        Row(
            id=f"row-{k}",
            prompt=text,
            completion=Image.fromarray(rng.integers(0, 255, (16, 16, 3)).astype(np.uint8)),
        )
        for k, text in enumerate(PROMPTS[:3])
    ]
