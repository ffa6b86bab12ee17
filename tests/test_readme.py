"""Runs the README's commands: every block that opens with ```bash tested.

``make demo`` takes minutes, so its quick form runs in its place; ``make test`` would run this test
again, so only its plan is printed.  Commands run in the checkout with its environment first on PATH.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
IN_PLACE_OF = {
    "make demo": "make demo-quick",
    "make test": "make --dry-run test",
    "make setup": "make --dry-run setup",
    "mmalign demo": "mmalign demo --quick",
}
pytestmark = pytest.mark.readme


def commands() -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash tested\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    joined = "".join(blocks).replace("\\\n", " ")
    lines = [line.split(" #")[0].strip() for line in joined.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def test_the_readme_has_tested_commands() -> None:
    assert commands(), "mark the README's commands with ```bash tested"


@pytest.mark.parametrize("command", commands())
def test_readme_command(command: str) -> None:
    command = IN_PLACE_OF.get(command, command)
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env=env, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
