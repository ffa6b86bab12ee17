"""The wheel holds everything, installs elsewhere and runs from another folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAPPED = {"modalities", "rewards", "benchmarks"}
pytestmark = pytest.mark.install


def tracked() -> list[str]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return sorted({name for name in names if (ROOT / name).is_file()})


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    for name in tracked():
        if name.split("/")[0] in {"mmalign", *MAPPED, "pyproject.toml", "setup.py", "README.md", "LICENSE"}:
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "source" / name)
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*pip, str(folder / "source")], check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_every_file(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    wanted = set()
    for name in tracked():
        top = name.split("/")[0]
        if top in MAPPED:
            wanted.add(f"mmalign/{name}")
        elif top == "mmalign":
            wanted.add(name)
    lost = {name for name in wanted - inside if not name.endswith((".md", ".gitignore"))}
    assert not lost, f"missing from the wheel: {sorted(lost)}"
    tops = {name.split("/")[0] for name in inside}
    assert tops == {"mmalign", next(top for top in tops if top.endswith(".dist-info"))}


def test_the_wheel_runs_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(pip, check=True, capture_output=True)
    env = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    where = run("-c", "import mmalign, mmalign.modalities as m; print(mmalign.__file__, m.__file__)")
    assert where.count(str(site)) == 2
    assert "vision  [mmalign]" in run("-m", "mmalign", "list", "--names")
    run("-m", "mmalign", "train", "sft", "--config", "toy", "--sft.max_steps", "2", "--output_dir", "runs/x")
    assert (tmp_path / "runs" / "x" / "stages" / "sft" / "done.json").is_file()
    run("-m", "mmalign", "new", "modality", "scent")
    assert (tmp_path / "mmalign-scent" / "mmalign_scent" / "adapter.py").is_file()


@pytest.mark.parametrize("name", sorted(MAPPED))
def test_a_root_folder_is_no_module_of_its_own(name: str) -> None:
    done = subprocess.run([sys.executable, "-c", f"import {name}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert f"import mmalign.{name}" in done.stderr
