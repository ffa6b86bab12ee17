"""The update of a round: one loss over selected items, whatever the modality."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from mmalign.data.pairs import Pair
from mmalign.engine.pairs import pair_objective, score_rows
from mmalign.engine.step import Loss
from mmalign.errors import UserError
from mmalign.objectives.d3po import d3po_loss
from mmalign.objectives.ift import ift_loss
from mmalign.objectives.nash import nash_md_loss
from mmalign.objectives.preference import needs_reference
from mmalign.objectives.sft import nll_loss
from mmalign.objectives.superhf import superhf_loss
from mmalign.protocols import Foresees

if TYPE_CHECKING:
    from mmalign.config.iterate import IterateConfig
    from mmalign.engine.iterate.select import Item
    from mmalign.engine.iterate.snapshot import SnapshotReference
    from mmalign.objectives.pairs import PairSettings
    from mmalign.protocols import Likelihood
    from mmalign.types import Row

__all__ = ["ItemLoss", "update_loss"]

ItemLoss = Callable[["Sequence[Item]", torch.Generator], Loss]
"""A loss over one micro-batch of items."""


def update_loss(
    adapter: Likelihood,
    model: nn.Module,
    reference: SnapshotReference,
    sampler: SnapshotReference,
    cfg: IterateConfig,
    pair: PairSettings,
) -> ItemLoss:
    """The loss that ``cfg.update`` names.

    Args:
        adapter: the modality.
        model: the policy.
        reference: initial, previous or averaged weights.
        sampler: the policy at the round's start, which drew the answers.
        cfg: the section ``iterate``.
        pair: settings of the pair loss.

    Raises:
        UserError: for IFT with a blend on a modality that cannot read its own prediction, and (when computing) for
            D3PO on answers without the log-probability of every step.
    """
    if cfg.update == "pair":
        by_pair = pair_objective(adapter, model, reference if needs_reference(pair) else None, pair)
        return lambda items, rng: by_pair([Pair(item.answer, _other(item)) for item in items], rng)
    if cfg.update == "d3po":
        return _d3po(adapter, model, reference, cfg)
    if cfg.update == "superhf":
        return _superhf(adapter, model, reference, cfg.kl_coef)
    if cfg.update == "ift":
        return _ift(adapter, model, cfg)
    if cfg.update == "nash":
        return _nash(adapter, model, reference, sampler, cfg.kl_coef)
    return _nll(adapter, model)


def _nll(adapter: Likelihood, model: nn.Module) -> ItemLoss:
    def loss_fn(items: Sequence[Item], rng: torch.Generator) -> Loss:
        logp, _, mask = score_rows(adapter, model, None, [item.answer for item in items], rng)
        value = nll_loss(logp, mask)
        return Loss(value, float(mask.sum()), {"nll": value.detach()})

    return loss_fn


def _d3po(
    adapter: Likelihood, model: nn.Module, reference: SnapshotReference, cfg: IterateConfig
) -> ItemLoss:
    def scored(rows: list[Row], rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        batch = adapter.collate(rows)
        found = adapter.logp(model, batch, rng)
        if found.surrogate:
            raise UserError(
                f"iterate.update: d3po learns from the log-probability of every step, but modality {adapter.name!r} "
                "scored these answers by a surrogate; score their recorded steps, or use update: pair"
            )
        return found.values, reference.logp(batch, rng), found.mask

    def loss_fn(items: Sequence[Item], rng: torch.Generator) -> Loss:
        chosen = scored([item.answer for item in items], rng)
        rejected = scored([_other(item) for item in items], rng)
        value, metrics = d3po_loss(*chosen, *rejected, cfg.d3po_beta, cfg.d3po_clip)
        return Loss(value, float(len(items)), metrics)

    return loss_fn


def _superhf(adapter: Likelihood, model: nn.Module, reference: SnapshotReference, kl_coef: float) -> ItemLoss:
    def loss_fn(items: Sequence[Item], rng: torch.Generator) -> Loss:
        best, _, mask = score_rows(adapter, model, None, [item.answer for item in items], rng)
        free, ref, free_mask = score_rows(adapter, model, reference, [_other(item) for item in items], rng)
        assert ref is not None
        value, metrics = superhf_loss(best, mask, free, ref, free_mask, kl_coef)
        return Loss(value, float(mask.sum()), metrics)

    return loss_fn


def _ift(adapter: Likelihood, model: nn.Module, cfg: IterateConfig) -> ItemLoss:
    if cfg.ift_lambda > 0 and not isinstance(adapter, Foresees):
        raise UserError(
            f"iterate.ift_lambda: modality {adapter.name!r} cannot read its own prediction back (it has no "
            "logp_foreseen); set it to 0 for the weighting alone"
        )

    def loss_fn(items: Sequence[Item], rng: torch.Generator) -> Loss:
        batch = adapter.collate([item.answer for item in items])
        if cfg.ift_lambda > 0:
            assert isinstance(adapter, Foresees)
            scored = adapter.logp_foreseen(model, batch, cfg.ift_lambda, rng)
        else:
            scored = adapter.logp(model, batch, rng)
        value, metrics = ift_loss(scored.values, scored.mask, cfg.ift_gamma, cfg.ift_detach)
        return Loss(value, float(len(items)), metrics)

    return loss_fn


def _nash(
    adapter: Likelihood,
    model: nn.Module,
    reference: SnapshotReference,
    sampler: SnapshotReference,
    tau: float,
) -> ItemLoss:
    def loss_fn(items: Sequence[Item], rng: torch.Generator) -> Loss:
        rows = [item.answer for item in items]
        logp, ref, mask = score_rows(adapter, model, reference, rows, rng)
        assert ref is not None
        old = sampler.logp(adapter.collate(rows), rng)
        preference = torch.tensor([item.value for item in items], device=mask.device, dtype=logp.dtype)
        value, metrics = nash_md_loss(logp, old, ref, mask, preference, tau)
        return Loss(value, float(len(items)), metrics)

    return loss_fn


def _other(item: Item) -> Row:
    assert item.other is not None
    return item.other
