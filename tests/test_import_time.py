"""Importing the light parts and asking for help must not load torch."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import pytest

import mmalign.report
import mmalign.stats

HEAVY = ("torch", "transformers", "peft", "accelerate", "datasets", "matplotlib")


def light_modules() -> list[str]:
    found = [
        "mmalign",
        "mmalign.cli.main",
        "mmalign.registry",
        "mmalign.types",
        "mmalign.protocols",
        "mmalign.errors",
    ]
    found += ["mmalign.config.load", "mmalign.config.describe", "mmalign.rng"]
    for package in (mmalign.report, mmalign.stats):
        found += [f"{package.__name__}.{item.name}" for item in pkgutil.iter_modules(package.__path__)]
    return found


def heavy_after(code: str) -> str:
    tail = f"\nimport sys\nprint('LOADED', *[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code + tail], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("LOADED")[-1].strip()


def test_light_modules_load_nothing_heavy() -> None:
    assert heavy_after("\n".join(f"import {name}" for name in light_modules())) == ""


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["list", "--names"]])
def test_quick_commands_load_nothing_heavy(arguments: list[str]) -> None:
    loaded = heavy_after(f"from mmalign.cli.main import main\nassert main({arguments!r}) == 0")
    assert loaded == ""


def test_help_of_every_command_loads_nothing_heavy() -> None:
    code = """
from mmalign.cli.main import COMMANDS, main
for name in COMMANDS:
    try:
        main([name, "--help"])
    except SystemExit as stop:
        assert stop.code == 0, name
"""
    assert heavy_after(code) == ""
