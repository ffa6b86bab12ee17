"""The tuner ``spt``: sensitivity, budget, and the plan of parts they come to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from mmalign.config.fields import Positive, PositiveCount, Section, Share
from mmalign.tuners.anatomy import Anatomy
from mmalign.tuners.definition import Plan, Probe, required
from mmalign.tuners.spt.budget import Allocation, Matrix, allocate
from mmalign.tuners.spt.sensitivity import Scores, magnitude_scores, random_scores, sensitivity
from mmalign.tuners.tuner import SiteConfig

__all__ = ["SPT", "Piece", "Spt", "SptOptions", "pieces"]


class SptOptions(Section):
    """The budget and how it is spent."""

    budget: Positive = 0.004
    """Trainable numbers: below 1 as a share of the candidates, else their count; a head is not in it."""
    structure: Literal["lora", "adapter", "none"] = "lora"
    """What stands for a matrix that holds many sensitive weights; ``none`` trains single weights only."""
    rank: PositiveCount = 8
    """Rank of LoRA, or width of the adapter."""
    alpha: Positive = 10.0
    """A matrix gets its module when it holds at least the module's size over ``alpha`` of the best weights."""
    beta: Positive = 5.0
    """A vector trains whole when it holds at least its length over ``beta`` of the best weights."""
    batches: PositiveCount = 16
    """Minibatches whose gradients are measured."""
    dropout: Share = 0.1
    """On the input of LoRA while training."""
    drop_path: Share = 0.1
    """Share of samples for which LoRA is left out while training."""
    criterion: Literal["sensitivity", "magnitude", "random"] = "sensitivity"
    """What ranks the weights; the others are the controls that sensitivity is compared with."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A matrix, a third of a fused one, or a vector: rows ``start:stop`` of a parameter."""

    module: str
    parameter: str
    start: int
    stop: int
    shape: tuple[int, ...]
    projection: bool


class Spt:
    """Train the most sensitive weights one by one, and by LoRA or an adapter where many stand in one matrix.

    Equation: ``W + scatter(values)`` or ``W + B A`` per matrix; query, key and value count as three matrices.

    Reference: He et al. 2023, arXiv 2303.08566.
    Differs from the authors' code: see :mod:`mmalign.tuners.spt.sensitivity` and :mod:`mmalign.tuners.spt.budget`;
    any model with blocks is taken; matrices outside blocks and convolutions train by single weights only.
    """

    name = "spt"
    identity = True
    Options = SptOptions

    def plan(self, anatomy: Anatomy, options: SptOptions, probe: Probe | None) -> Plan:
        """Score every candidate, spend the budget, and write down what it bought."""
        scores = _scores(anatomy, options, probe)
        found = pieces(anatomy)
        entrance = anatomy.entrance()
        fixed = entrance[2] if entrance is not None else 0
        total = sum(tensor.numel() for _, _, tensor in anatomy.candidates())
        budget = round(options.budget * total) if options.budget < 1 else round(options.budget)
        bought = allocate([_matrix(piece, scores, options, anatomy) for piece in found], budget, fixed)
        sites, state = _sites(found, bought, options)
        if entrance is not None:
            site, name, dim = entrance
            sites.setdefault(site, []).append({"kind": "token", "name": name, "dim": dim})
        kind = "MMALIGN_HOOK" if options.structure == "adapter" else "MMALIGN_DELTA"
        return Plan(SiteConfig(peft_type=kind, plan=sites), state)


def pieces(anatomy: Anatomy) -> list[Piece]:
    """Everything that competes, in the model's order."""
    found = []
    for module, key, tensor in anatomy.candidates():
        projection = anatomy.is_projection(module, key)
        for start, stop in (
            anatomy.sections(module, key) if projection else [(0, tensor.shape[0] if tensor.ndim else 1)]
        ):
            shape = (stop - start, *tensor.shape[1:])
            found.append(Piece(module, key, start, stop, shape, projection))
    return found


def _scores(anatomy: Anatomy, options: SptOptions, probe: Probe | None) -> Scores:
    if options.criterion == "random":
        return random_scores(anatomy)
    if options.criterion == "magnitude":
        return magnitude_scores(anatomy)
    return sensitivity(anatomy, required(probe, "spt"), options.batches)


def _matrix(piece: Piece, scores: Scores, options: SptOptions, anatomy: Anatomy) -> Matrix:
    score = scores[piece.module, piece.parameter]
    flat = (score[piece.start : piece.stop] if score.ndim else score).reshape(-1).cpu().numpy()
    name = f"{piece.module}.{piece.parameter}"
    if options.structure == "none":
        return Matrix(name, flat, 0, None)
    if len(piece.shape) == 1:
        return Matrix(name, flat, piece.shape[0], math.ceil(piece.shape[0] / options.beta))
    fits = piece.projection and (
        options.structure == "lora" or not hasattr(anatomy.modules[piece.module], "in_proj_weight")
    )
    if not fits:
        return Matrix(name, flat, 0, None)
    tall, wide = piece.shape
    price = (
        options.rank * (tall + wide)
        if options.structure == "lora"
        else 2 * options.rank * tall + options.rank + tall
    )
    return Matrix(name, flat, price, math.ceil(price / options.alpha))


def _sites(
    found: Sequence[Piece], bought: Allocation, options: SptOptions
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, dict[str, Tensor]]]:
    params: dict[str, dict[str, Any]] = {}
    adapters: dict[str, list[dict[str, Any]]] = {}
    indices: dict[tuple[str, str], list[Tensor]] = {}
    for piece, picks, whole in zip(found, bought.picks, bought.structured, strict=True):
        entry = params.setdefault(piece.module, {}).setdefault(piece.parameter, {})
        if whole and len(piece.shape) == 1:
            entry["k"] = "all"
        elif whole and options.structure == "lora":
            entry.setdefault("blocks", []).append(
                {"start": piece.start, "stop": piece.stop, "r": options.rank}
            )
        elif whole:
            tall = piece.shape[0]
            spec = {
                "kind": "adapter",
                "in": tall,
                "out": tall,
                "hidden": options.rank,
                "act": "gelu",
                "start": piece.start,
            }
            adapters.setdefault(piece.module, []).append(spec)
        elif len(picks):
            wide = math.prod(piece.shape[1:])
            indices.setdefault((piece.module, piece.parameter), []).append(
                torch.from_numpy(picks) + piece.start * wide
            )
            entry["k"] = entry.get("k", 0) + len(picks)
    sites: dict[str, list[dict[str, Any]]] = {}
    state: dict[str, dict[str, Tensor]] = {}
    for module, named in params.items():
        if trained := {key: entry for key, entry in named.items() if entry}:
            regular = {"dropout": options.dropout, "drop_path": options.drop_path}
            sites[module] = [{"kind": "delta", "params": trained, **regular}]
        sites.setdefault(module, []).extend(adapters.get(module, []))
        for key in named:
            if (module, key) in indices:
                place = f"0.indices_{key.replace('.', '-')}"
                state.setdefault(module, {})[place] = torch.cat(indices[module, key]).sort().values
    return {module: specs for module, specs in sites.items() if specs}, state


SPT = Spt()
