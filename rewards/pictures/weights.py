"""Weights from local files into modules: safetensors, or torch files read as tensors alone; no key may be missing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from mmalign.errors import UserError, nearest

__all__ = ["fill_module", "read_weights", "weights_file"]

_NAMES = (
    "model.safetensors",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
)


def weights_file(folder: Path, *more: str) -> Path:
    """The file with the weights in a folder.

    Args:
        folder: where to look.
        more: further names, looked for first.

    Raises:
        UserError: when there is none.
    """
    for name in (*more, *_NAMES):
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder}: expected weights, one of {', '.join((*more, *_NAMES))}")


def read_weights(file: Path) -> dict[str, Tensor]:
    """Tensors by key; of a torch file (tensors only, no code is run) also those below ``state_dict``.

    Raises:
        UserError: when the file does not exist or holds no tensors by name.
    """
    if not file.is_file():
        raise UserError(f"{file} does not exist; expected a file of weights (.safetensors, .pt, .bin)")
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{file}: cannot be read as tensors alone ({reason})") from error
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise UserError(f"{file}: expected tensors by name")
    return dict(found)


def fill_module(module: nn.Module, tensors: Mapping[str, Tensor], file: Path) -> nn.Module:
    """Load every parameter and buffer of ``module``; further keys of the file are left alone.

    Returns:
        the module, in eval mode and frozen.

    Raises:
        UserError: naming the first key that the file lacks or whose shape differs.
    """
    wanted = module.state_dict()
    for key, value in wanted.items():
        if key not in tensors:
            raise UserError(f"{file}: has no {key!r}{nearest(key, tensors)}; is it another model's file?")
        if tensors[key].shape != value.shape:
            raise UserError(
                f"{file}: {key} has shape {tuple(tensors[key].shape)}, the configuration says {tuple(value.shape)}"
            )
    module.load_state_dict({key: tensors[key] for key in wanted})
    return module.eval().requires_grad_(False)
