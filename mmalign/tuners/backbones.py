"""Pretrained backbones with a new head: from timm, from a folder timm wrote, or shipped under a name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmalign import registry
from mmalign.errors import UserError, nearest
from mmalign.rng import derive_seed

__all__ = ["HEAD_STD", "load_backbone", "normalisation"]

HEAD_STD = 0.02
"""Standard deviation of a new head's weights; at 0 no gradient would reach the backbone, and SPT would see nothing."""


def load_backbone(spec: str, n_classes: int, *, seed: int = 0) -> nn.Module:
    """A timm model in float32 with a new linear head, in training mode.

    Args:
        spec: ``timm:NAME`` (random weights), ``timm:NAME?pretrained`` (timm's, from its cache or the network),
            ``local:FOLDER`` (``config.json`` and ``model.safetensors`` as ``timm.models.save_for_hf`` writes them), or
            the name of a shipped backbone (``mmalign list backbones``).
        n_classes: outputs of the new head.
        seed: draws the head, and all weights of ``timm:NAME``.

    Raises:
        UserError: for an unknown name, a folder without a model, or timm missing.
    """
    timm = _timm()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "backbone", spec))
        if spec.startswith("timm:"):
            name, pretrained = _timm_name(timm, spec)
            model = timm.create_model(name, pretrained=pretrained, num_classes=n_classes)
        else:
            model = _from_folder(timm, spec, n_classes)
        _new_head(model, spec)
    return model.float().train()


def normalisation(model: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation per channel, each ``[C, 1, 1]``, that pictures in [0, 1] are normalised with.

    They stand in the model's ``pretrained_cfg``, where timm keeps them; a model without is given 0.5 and 0.5.
    """
    known: Any = getattr(model, "pretrained_cfg", None) or {}
    mean, std = (known.get(key) or (0.5, 0.5, 0.5) for key in ("mean", "std"))
    return torch.tensor(mean).view(-1, 1, 1), torch.tensor(std).view(-1, 1, 1)


def _timm() -> Any:
    try:
        import timm
    except ImportError:
        raise UserError("backbones come from timm: pip install 'mmalign[tuners]'") from None
    return timm


def _timm_name(timm: Any, spec: str) -> tuple[str, bool]:
    name, _, flag = spec.removeprefix("timm:").partition("?")
    if flag not in ("", "pretrained"):
        raise UserError(f"backbone {spec}: after ? stands pretrained or nothing, not {flag}")
    if name.split(".")[0] not in timm.list_models():
        raise UserError(f"backbone {spec}: timm has no model {name}{nearest(name, timm.list_models())}")
    return name, bool(flag)


def _from_folder(timm: Any, spec: str, n_classes: int) -> nn.Module:
    if spec.startswith("local:"):
        folder = Path(spec.removeprefix("local:"))
    else:
        folder = Path(registry.load("backbones", spec, key="backbone"))
    for needed in ("config.json", "model.safetensors"):
        if not (folder / needed).is_file():
            raise UserError(
                f"backbone {spec}: {folder} has no {needed} (timm.models.save_for_hf writes both)"
            )
    return timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=n_classes)


def _new_head(model: Any, spec: str) -> None:
    head = model.get_classifier() if hasattr(model, "get_classifier") else None
    if not isinstance(head, nn.Linear):
        raise UserError(f"backbone {spec}: its classifier is {type(head).__name__}, a linear head is needed")
    nn.init.trunc_normal_(head.weight, std=HEAD_STD)
    if head.bias is not None:
        nn.init.zeros_(head.bias)
