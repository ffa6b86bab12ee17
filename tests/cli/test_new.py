"""What ``mmalign new`` writes conforms, installs as a package of its own, and trains."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmalign.cli.new import write_plugin
from mmalign.errors import UserError

LIMIT = 150


def run(arguments: list[str], folder: Path, site: Path) -> str:
    env = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=folder, env=env, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def installed(package: Path, site: Path) -> None:
    pip = ["pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", str(site), str(package)]
    run(pip, package, site)


def test_the_modality_template_is_small_and_complete(tmp_path: Path) -> None:
    package = write_plugin("modality", "beam", tmp_path)
    names = {str(file.relative_to(package)) for file in package.rglob("*") if file.is_file()}
    assert {
        "pyproject.toml",
        "README.md",
        "beam.yaml",
        "mmalign_beam/adapter.py",
        "tests/test_plugin.py",
    } <= names
    assert len((package / "mmalign_beam" / "adapter.py").read_text().splitlines()) <= LIMIT
    left = [file for file in package.rglob("*") if file.is_file() and "$" in file.read_text()]
    assert not left, f"unfilled template words in {left}"
    with pytest.raises(UserError, match="exists already"):
        write_plugin("modality", "beam", tmp_path)


@pytest.mark.install
def test_a_new_modality_conforms_and_trains_with_sft_and_grpo(tmp_path: Path) -> None:
    package, site = write_plugin("modality", "beam", tmp_path), tmp_path / "site"
    installed(package, site)
    run(["pytest", "-q", "-p", "no:cacheprovider", "tests"], package, site)
    assert "beam  [mmalign-beam]" in run(["mmalign", "list", "modalities"], package, site)
    run(["mmalign", "run", "beam.yaml", "--output_dir", str(tmp_path / "run")], package, site)
    metrics = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert metrics.count('"stage": "sft"') == 10 and metrics.count('"stage": "grpo"') == 10


@pytest.mark.install
def test_a_new_reward_conforms_and_is_found(tmp_path: Path) -> None:
    package, site = write_plugin("reward", "fresh", tmp_path), tmp_path / "site"
    installed(package, site)
    run(["pytest", "-q", "-p", "no:cacheprovider", "tests"], package, site)
    flags = ["--stages", "grpo", "--reward.name", "fresh", "--reward.source", "none", "--grpo.max_steps", "2"]
    run(["mmalign", "run", "toy", *flags, "--output_dir", str(tmp_path / "run")], package, site)
    assert "rewards/new" in (tmp_path / "run" / "metrics.jsonl").read_text()
