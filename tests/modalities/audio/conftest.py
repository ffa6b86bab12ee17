"""One tiny music model per session, loaded anew for every test."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from music_models import build

from mmalign.modalities.audio import AudioAdapter

torch.set_num_threads(1)


@dataclass(frozen=True)
class Loaded:
    folder: Path
    adapter: AudioAdapter
    model: Any


@pytest.fixture(scope="session")
def music_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("music"))


@pytest.fixture
def music(music_folder: Path) -> Loaded:
    adapter = AudioAdapter()
    return Loaded(music_folder, adapter, adapter.load(str(music_folder)))
