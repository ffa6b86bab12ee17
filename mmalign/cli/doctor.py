"""``mmalign doctor``: what is installed here, what is missing and the exact line to install it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
from collections.abc import Sequence

from mmalign.cli.arguments import CommandParser

__all__ = ["extras", "main", "missing"]

CORE = (
    "mmalign",
    "torch",
    "torchvision",
    "transformers",
    "peft",
    "accelerate",
    "safetensors",
    "numpy",
    "pydantic",
)


def main(argv: Sequence[str]) -> int:
    """Print versions, device, threads, free disk, extras and failed plug-ins; exit 1 when the core is broken."""
    parser = CommandParser(
        "doctor", "Versions, device, threads, free disk, missing extras and how to install them."
    )
    parser.parse_args(list(argv))
    print(f"python {platform.python_version()} on {platform.platform()}")
    broken = [name for name in CORE if _version(name) is None]
    for name in CORE:
        print(f"{name} {_version(name) or 'MISSING'}")
    if "torch" not in broken:
        print(_device())
    print(f"disk: {shutil.disk_usage('.').free / 1e9:.1f} GB free here")
    for extra, packages in extras().items():
        absent = missing(packages)
        state = f"missing {', '.join(absent)}; install with: {_pip(extra)}" if absent else "installed"
        print(f"extra {extra}: {state}")
    for line in _failed():
        print(line)
    if broken:
        print(f"install with: {sys.executable} -m pip install {' '.join(broken)}")
    return 1 if broken else 0


def extras() -> dict[str, tuple[str, ...]]:
    """Each optional extra and the distributions it brings."""
    found: dict[str, list[str]] = {}
    for line in importlib.metadata.requires("mmalign") or []:
        match = re.match(r"([A-Za-z0-9_.-]+).*extra == ['\"]([\w-]+)['\"]", line)
        if match:
            found.setdefault(match[2], []).append(match[1])
    return {name: tuple(packages) for name, packages in found.items()}


def missing(packages: Sequence[str]) -> list[str]:
    """Those of the distributions that are not installed."""
    return [name for name in packages if _version(name) is None]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        name = torch.cuda.get_device_name(0)
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        device = f"{torch.cuda.device_count()} x {name} ({memory:.0f} GiB)"
    elif torch.backends.mps.is_available():
        device = "Apple GPU (mps)"
    else:
        device = "cpu"
    return f"device: {device}; {torch.get_num_threads()} threads on {os.cpu_count()} cores"


def _pip(extra: str) -> str:
    return f'{sys.executable} -m pip install "mmalign[{extra}]"'


def _failed() -> list[str]:
    from mmalign import registry

    return [
        f"plug-in {group}/{name} FAILED: {problem}"
        for group in registry.GROUPS
        for name, _, problem in registry.status(group)
        if problem
    ]
