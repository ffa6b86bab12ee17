"""One tiny language model per family, built once per session."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from text_families import NAMES, NO_TEMPLATE, build

from mmalign.modalities.text import TextAdapter
from mmalign.types import Row

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def text_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("text")
    return {name: build(name, root) for name in NAMES}


@pytest.fixture(params=NAMES)
def text_model(request: pytest.FixtureRequest, text_folders: dict[str, Path]) -> tuple[str, TextAdapter, Any]:
    adapter = TextAdapter()
    return request.param, adapter, adapter.load(str(text_folders[request.param]))


@pytest.fixture
def text_rows(text_model: tuple[str, TextAdapter, Any]) -> list[Row]:
    """Prompts and answers of several lengths, one of a single token; conversations where there is a template."""
    rows = [
        Row("plain", "Say something nice .", (), "A cat , a dog ; and a bird !"),
        Row("short", "question", (), "there is a red circle . the circle is left of the blue square ."),
        Row("token", "Say", (), "x", steps=[7]),
    ]
    if text_model[0] not in NO_TEMPLATE:
        chat = [
            {"role": "system", "content": "answer"},
            {"role": "user", "content": "Say something"},
            {"role": "assistant", "content": "A cat"},
            {"role": "user", "content": [{"type": "text", "text": "and a bird !"}]},
        ]
        rows.append(Row("chat", chat, (), [{"role": "assistant", "content": "A dog"}]))
    return rows
