"""Checkpoints: safetensors and JSON only, written under a temporary name and renamed.

A checkpoint holds the trainable parameters, the optimiser's moments, the schedule's position and
the small counters of the loop.  It holds no random state: every step draws from streams named
``(seed, stage, step)`` (:mod:`mmalign.rng`), so step ``k`` is the same whether or not the process
was killed before it.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmalign.config.tuner import CONTAINER
from mmalign.engine.atomic import write_folder
from mmalign.errors import UserError

__all__ = [
    "latest_checkpoint",
    "load_checkpoint",
    "pack_optimizer",
    "prune_checkpoints",
    "save_checkpoint",
    "trainable_tensors",
    "unpack_optimizer",
]

_NAME = re.compile(r"checkpoint-(\d+)$")


def trainable_tensors(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Parameters with ``requires_grad`` and the buffers of attached tuners, as ``module/name``.

    A tuner's buffers are part of what it learnt (which weights it picked, running statistics); those of a frozen
    model below it are not.
    """
    tensors: dict[str, Tensor] = {}
    for prefix, module in modules.items():
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                tensors[f"{prefix}/{name}"] = parameter.data
        for name, buffer in module.named_buffers():
            if f".{CONTAINER}." in name:
                tensors[f"{prefix}/{name}"] = buffer
    return tensors


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimiser's state into tensors (for safetensors) and plain numbers (for JSON)."""
    state = optimizer.state_dict()
    tensors = {
        f"{index}/{key}": value.detach().clone()
        for index, entry in state["state"].items()
        for key, value in entry.items()
        if isinstance(value, Tensor)
    }
    numbers = {
        f"{index}/{key}": value
        for index, entry in state["state"].items()
        for key, value in entry.items()
        if not isinstance(value, Tensor)
    }
    groups = [{k: v for k, v in group.items() if _plain(v)} for group in state["param_groups"]]
    return tensors, {"numbers": numbers, "param_groups": groups}


def unpack_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]
) -> None:
    """Restore what :func:`pack_optimizer` split."""
    state: dict[int, dict[str, Any]] = {}
    for source in (tensors, plain["numbers"]):
        for name, value in source.items():
            index, key = name.split("/", 1)
            state.setdefault(int(index), {})[key] = value
    current = optimizer.state_dict()["param_groups"]
    groups = [{**now, **saved} for now, saved in zip(current, plain["param_groups"], strict=True)]
    for group in groups:
        if isinstance(group.get("betas"), list):
            group["betas"] = tuple(group["betas"])
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def save_checkpoint(
    folder: Path,
    *,
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
) -> None:
    """Write one checkpoint folder atomically.

    Raises:
        UserError: when the disk is full (the last complete checkpoint stays).
    """
    moments, plain = pack_optimizer(optimizer)
    weights = {name: tensor.contiguous().clone() for name, tensor in trainable_tensors(modules).items()}

    def fill(target: Path) -> None:
        try:
            save_file(weights, target / "weights.safetensors")
            save_file(moments, target / "optimizer.safetensors")
        except SafetensorError as error:
            if "No space left" in str(error) or "StorageFull" in str(error):
                raise OSError(28, "No space left on device") from error
            raise
        text = json.dumps({**state, "optimizer": plain}, allow_nan=False)
        (target / "state.json").write_text(text, encoding="utf-8")

    write_folder(folder, fill)


def load_checkpoint(
    folder: Path, *, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Restore weights and optimiser in place and return the loop's plain state.

    Raises:
        UserError: when the checkpoint does not fit the modules.
    """
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    saved = load_file(folder / "weights.safetensors")
    current = trainable_tensors(modules)
    missing = sorted(set(current) ^ set(saved))
    if missing:
        raise UserError(
            f"{folder}: holds other parameters than this run trains (first difference: {missing[0]}); "
            "use another output_dir or the configuration that wrote it"
        )
    with torch.no_grad():
        for name, tensor in current.items():
            if tensor.shape != saved[name].shape:
                raise UserError(
                    f"{folder}: {name} has shape {tuple(saved[name].shape)}, expected {tuple(tensor.shape)}"
                )
            tensor.copy_(saved[name])
    unpack_optimizer(optimizer, load_file(folder / "optimizer.safetensors"), state.pop("optimizer"))
    return state


def latest_checkpoint(parent: Path) -> Path | None:
    """Return the complete ``checkpoint-N`` with the highest ``N`` below ``parent``, if any."""
    found: list[tuple[int, Path]] = []
    for path in parent.glob("checkpoint-*"):
        match = _NAME.fullmatch(path.name)
        if match and (path / "state.json").is_file():
            found.append((int(match.group(1)), path))
    return max(found)[1] if found else None


def prune_checkpoints(parent: Path, keep: int = 2) -> None:
    """Delete all but the newest ``keep`` checkpoints."""
    found = sorted(
        (int(match.group(1)), path)
        for path in parent.glob("checkpoint-*")
        if (match := _NAME.fullmatch(path.name))
    )
    for _, path in found[:-keep] if keep else found:
        shutil.rmtree(path, ignore_errors=True)


def _plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)
