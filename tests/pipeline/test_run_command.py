"""A run writes down what was typed, so that it can be typed again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmalign.config.load import load_config
from mmalign.pipeline.run import open_run


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("/env/bin/mmalign", "mmalign run toy --name 'two words'"),
        ("/src/mmalign/__main__.py", "python -m mmalign run toy --name 'two words'"),
        ("scripts/train_vlm.py", "python scripts/train_vlm.py run toy --name 'two words'"),
    ],
)
def test_the_command_can_be_typed_again(
    program: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", [program, "run", "toy", "--name", "two words"])
    open_run(load_config("toy", [f"--output_dir={tmp_path}"]))
    assert json.loads((tmp_path / "env.json").read_text())["command"] == said
