"""A backbone made ready to be fitted: what trains, at which rates, under which loss, and how many numbers that are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn import functional as F

from mmalign import registry
from mmalign.config.transfer import TransferConfig
from mmalign.engine.transfer.fitting import Examples, Groups, Objective, supervised
from mmalign.errors import UserError
from mmalign.rng import derive_seed
from mmalign.tuners import attach, trainable_count
from mmalign.tuners.dr_tune import CALIBRATIONS, DRTune
from mmalign.tuners.hst.part import SidePart
from mmalign.tuners.policies import freeze_below, layer_rates, reinitialise

__all__ = ["WHOLE", "PixelOutputs", "Prepared", "per_token", "prepare"]

WHOLE = ("linear", "full")
"""What stands in a tuner's place: the head alone, or every weight."""


@dataclass(frozen=True)
class Prepared:
    """A model to fit.

    Args:
        model: gives logits ``[B, K]``, or ``[B, K, H, W]`` for pixels.
        objective: its loss.
        groups: parameter groups with their rates, or ``None`` for a single one.
        trainable: numbers that train without the head.
        head: numbers of the head.
        alone: the head, where nothing below it trains.
    """

    model: nn.Module
    objective: Objective
    groups: Groups | None
    trainable: int
    head: int
    alone: nn.Module | None = None


class PixelOutputs(nn.Module):
    """A model that answers per token, read per pixel: the grid of its patches, enlarged to the picture.

    Args:
        model: gives logits ``[B, T, K]`` (prefix tokens first), or per pixel already.
        prefix: tokens before the patches.
    """

    def __init__(self, model: nn.Module, prefix: int) -> None:
        super().__init__()
        self.model, self._prefix = model, prefix

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[B, K, H, W]`` of pictures ``[B, C, H, W]``."""
        out: Tensor = self.model(x)
        if out.ndim == 4:
            return out
        patches = out[:, self._prefix :]
        side = round(patches.shape[1] ** 0.5)
        grid = patches.transpose(1, 2).reshape(len(x), -1, side, patches.shape[1] // side)
        return F.interpolate(grid, size=x.shape[-2:], mode="bilinear", align_corners=False)


def per_token(model: Any) -> int:
    """Make a timm ViT answer per token; returns how many tokens stand before the patches.

    Raises:
        UserError: for a model of another kind.
    """
    if not hasattr(model, "num_prefix_tokens") or not hasattr(model, "global_pool"):
        raise UserError(
            f"pixels: {type(model).__name__} has no tokens to answer from; use a timm ViT, or hst with head: dense"
        )
    model.global_pool = ""
    return int(model.num_prefix_tokens)


def prepare(
    backbone: nn.Module,
    cfg: TransferConfig,
    data: Examples,
    *,
    learning_rate: float,
    seed: int,
) -> Prepared:
    """Attach what ``cfg.tuner`` names to a backbone with a new head.

    Args:
        backbone: from ``load_backbone``; is changed in place.
        cfg: the configuration.
        data: the training examples, for tuners that look at data first.
        learning_rate: the head's; with layer-wise decay the blocks' lie below.
        seed: draws what starts random.

    Raises:
        UserError: whatever the tuner refuses.
    """
    head = _head(backbone)
    prefix = per_token(backbone) if data.y.ndim > 1 else None
    groups: Groups | None = None
    objective: Objective = supervised
    name = str(cfg.tuner.name)
    model = backbone
    if name not in WHOLE:
        model = _attached(backbone, cfg, data, head, prefix, seed)
    elif name == "linear":
        backbone.requires_grad_(False)
        backbone.get_submodule(head).requires_grad_(True)
    else:
        if cfg.reinitialise:
            reinitialise(backbone, cfg.reinitialise, seed=derive_seed(seed, "transfer", "reinitialise"))
        if cfg.freeze_below:
            freeze_below(backbone, cfg.freeze_below)
        if cfg.layer_decay != 1.0:
            groups = layer_rates(backbone, learning_rate, cfg.layer_decay)
        if cfg.dr_tune.queue:
            calibrate = CALIBRATIONS[cfg.dr_tune.calibration]
            objective = DRTune(backbone, head, data.x, data.y, cfg.dr_tune.queue, calibrate, seed=seed)
    counted = _head_numbers(model, head)
    whole = model if prefix is None else PixelOutputs(model, prefix)
    alone = backbone.get_submodule(head) if name == "linear" and prefix is None else None
    return Prepared(whole, objective, groups, trainable_count(model) - counted, counted, alone)


def _attached(
    backbone: nn.Module, cfg: TransferConfig, data: Examples, head: str, prefix: int | None, seed: int
) -> PeftModel:
    tuner, name = cfg.tuner, str(cfg.tuner.name)
    answers = bool(getattr(registry.load("tuners", name), "answers", False))
    options = dict(tuner.options)
    if answers and "classes" not in options:
        options["classes"] = backbone.get_submodule(head).get_parameter("weight").shape[0]
    return attach(
        backbone,
        name,
        options,
        scope=tuner.scope,
        seed=seed,
        probe=partial(_losses, data=data, size=tuner.probe_batch_size, prefix=prefix),
        modules_to_save=() if answers else sorted({head, *tuner.modules_to_save}),
    )


def _losses(model: nn.Module, *, data: Examples, size: int, prefix: int | None) -> Iterator[Tensor]:
    """Losses of the training examples in order, minibatch by minibatch; a remainder is left out."""
    read = model if prefix is None else PixelOutputs(model, prefix)
    for start in range(0, len(data) - size + 1, size):
        index = torch.arange(start, start + size)
        yield supervised(read, data.x[index], data.y[index], index)


def _head(model: Any) -> str:
    head = model.get_classifier() if hasattr(model, "get_classifier") else None
    found = next((name for name, module in model.named_modules() if module is head), None)
    if head is None or not found:
        raise UserError(f"transfer: {type(model).__name__} names no classifier (get_classifier)")
    return str(found)


def _head_numbers(model: nn.Module, head: str) -> int:
    """Trainable numbers of the head: the model's own, peft's copy of it, or a side network's."""
    side = [module.head for module in model.modules() if isinstance(module, SidePart)]
    if side:
        return sum(trainable_count(part) for part in side)
    home = model.get_base_model() if isinstance(model, PeftModel) else model
    return trainable_count(home.get_submodule(head))
