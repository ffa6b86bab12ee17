"""One tiny model per family, built once per session."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from mmalign.types import Row

sys.path.insert(0, str(Path(__file__).parent))

from vision_families import NAMES, Family, build
from vision_rows import Loaded, load, make_rows

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Family]:
    root = tmp_path_factory.mktemp("families")
    return {name: build(name, root) for name in NAMES}


@pytest.fixture(params=NAMES)
def loaded(request: pytest.FixtureRequest, families: dict[str, Family]) -> Loaded:
    return load(families[request.param])


@pytest.fixture
def llava(families: dict[str, Family]) -> Loaded:
    return load(families["llava"])


@pytest.fixture
def rows(loaded: Loaded) -> list[Row]:
    return make_rows(loaded.family)


@pytest.fixture
def llava_rows(llava: Loaded) -> list[Row]:
    return make_rows(llava.family)
