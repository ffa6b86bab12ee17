"""Train policies: which blocks of an ordinary model train, how fast, and which start anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from mmalign.errors import UserError
from mmalign.tuners.anatomy import Anatomy, scoped

__all__ = ["depth_of", "freeze_below", "layer_rates", "reinitialise"]


def depth_of(anatomy: Anatomy, name: str) -> int:
    """0 for stem and tokens, ``k + 1`` in the block ``k``, ``L + 1`` after the last block (norm, head).

    What stands between two blocks (a downsampling) counts with the block after it.
    """
    if anatomy.is_stem(name):
        return 0
    places = [block.name for block in anatomy.blocks]
    for number, place in enumerate(places):
        if name.startswith(place + "."):
            return number + 1
    if anatomy.is_head(name):
        return len(places) + 1
    order = list(anatomy.modules)
    owner = name.rpartition(".")[0]
    if owner not in order or not any(order.index(place) > order.index(owner) for place in places):
        return len(places) + 1 if owner else 0
    return 1 + next(k for k, place in enumerate(places) if order.index(place) > order.index(owner))


def layer_rates(
    model: nn.Module, learning_rate: float, decay: float, *, scope: str = ""
) -> tuple[dict[str, list[nn.Parameter]], dict[str, float]]:
    """Parameter groups whose learning rate falls from the head down: what ``make_optimizer`` takes.

    Equation: ``lr_l = lr * decay^(L + 1 - l)`` at depth ``l`` (:func:`depth_of`) of ``L`` blocks.

    Reference: Clark et al. 2020, arXiv 2003.10555; Tinn et al. 2021, arXiv 2112.07869 (which models it helps).

    Args:
        model: an ordinary model; only parameters with ``requires_grad``.
        learning_rate: of the head.
        decay: above 0 and at most 1.
        scope: what counts as depth; parameters outside of it have the head's rate.

    Raises:
        UserError: for a decay out of range.
    """
    if not 0.0 < decay <= 1.0:
        raise UserError(f"layer-wise decay is above 0 and at most 1, not {decay}")
    anatomy = scoped(model, scope)
    top = len(anatomy.blocks) + 1
    groups: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            inside = not anatomy.scope or name.startswith(anatomy.scope + ".")
            groups.setdefault(f"depth-{depth_of(anatomy, name) if inside else top}", []).append(parameter)
    return groups, {
        name: learning_rate * decay ** (top - int(name.removeprefix("depth-"))) for name in groups
    }


def freeze_below(model: nn.Module, block: int, *, scope: str = "") -> None:
    """Freeze the stem and the first ``block`` blocks.

    Raises:
        UserError: for more blocks than there are.
    """
    anatomy = scoped(model, scope)
    if not 0 <= block <= len(anatomy.blocks):
        raise UserError(f"there are {len(anatomy.blocks)} blocks, {block} cannot be frozen")
    for name, parameter in anatomy.module.named_parameters():
        if depth_of(anatomy, anatomy.full(name)) <= block:
            parameter.requires_grad_(False)


def reinitialise(model: nn.Module, top: int, *, seed: int = 0, scope: str = "") -> list[str]:
    """Draw the last ``top`` blocks anew, with the model's own rule; returns their names.

    The rule is the model's ``_init_weights`` (timm, transformers), else each layer's ``reset_parameters``.

    Reference: Zhang et al. 2021, arXiv 2006.05987; Tinn et al. 2021, arXiv 2112.07869.

    Raises:
        UserError: for more blocks than there are, or a block that no rule changes.
    """
    anatomy = scoped(model, scope)
    if not 0 <= top <= len(anatomy.blocks):
        raise UserError(f"there are {len(anatomy.blocks)} blocks, {top} cannot start anew")
    chosen = [block.name for block in anatomy.blocks[len(anatomy.blocks) - top :]]
    rule: Callable[[nn.Module], Any] | None = getattr(anatomy.module, "_init_weights", None)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for name in chosen:
            before = [p.clone() for p in anatomy.modules[name].parameters()]
            for layer in anatomy.modules[name].modules():
                if callable(rule):
                    rule(layer)
                elif callable(reset := getattr(layer, "reset_parameters", None)):
                    reset()
            after = list(anatomy.modules[name].parameters())
            if all(torch.equal(old, new) for old, new in zip(before, after, strict=True)):
                raise UserError(f"{name}: the model has no rule to draw it anew")
    return chosen
