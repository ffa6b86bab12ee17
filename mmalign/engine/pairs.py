"""Losses over pairs and over single judged answers: adapter, reference and objective put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

import torch

from mmalign.engine.step import Loss
from mmalign.objectives.preference import PairSettings, needs_reference, preference_loss
from mmalign.objectives.unpaired import kto_kl, kto_loss

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mmalign.data.pairs import Pair
    from mmalign.protocols import Likelihood
    from mmalign.types import Batch, Row

__all__ = ["PairScore", "ScoresBatches", "kto_objective", "pair_objective", "score_pairs", "score_rows"]

PairScore: TypeAlias = "tuple[Tensor, Tensor | None, Tensor]"
"""Policy and reference log-probabilities and the mask of a batch, all ``[B, T]``."""


class ScoresBatches(Protocol):
    """A reference policy: :class:`~mmalign.engine.reference.Reference` or ``CachedReference``."""

    def logp(self, batch: Batch, rng: torch.Generator | None = None) -> Tensor:
        """Reference log-probabilities ``[B, T]`` in nats."""
        ...


def pair_objective(
    adapter: Likelihood, model: nn.Module, reference: ScoresBatches | None, settings: PairSettings
) -> Callable[[Sequence[Pair], torch.Generator], Loss]:
    """Any pair objective as a loss over pairs; the same function for every modality.

    Both answers of a pair, and policy and reference, are scored from the same state of ``rng``, so that a modality
    whose score is random (noise levels of a diffusion model) compares like with like.

    Args:
        adapter: the modality.
        model: the policy.
        reference: ``None`` where every named loss is reference-free.
        settings: losses and coefficients.

    Raises:
        ValueError: when a named loss needs a reference and there is none.
    """
    if reference is None and needs_reference(settings):
        raise ValueError(f"loss_type {', '.join(settings.loss_type)} needs a reference")

    def loss_fn(pairs: Sequence[Pair], rng: torch.Generator) -> Loss:
        chosen, rejected = score_pairs(adapter, model, reference, pairs, rng)
        value, metrics = preference_loss(
            chosen[0], rejected[0], chosen[1], rejected[1], chosen[2], rejected[2], settings
        )
        return Loss(value, float(len(pairs)), metrics)

    return loss_fn


def kto_objective(
    adapter: Likelihood,
    model: nn.Module,
    reference: ScoresBatches,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
    loss_type: Literal["kto", "apo_zero_unpaired"] = "kto",
) -> Callable[[Sequence[tuple[Row, bool]], torch.Generator], Loss]:
    """KTO as a loss over answers with a verdict; the reference point comes from answers swapped within the batch."""

    def loss_fn(items: Sequence[tuple[Row, bool]], rng: torch.Generator) -> Loss:
        rows = [row for row, _ in items]
        logp, ref, mask = score_rows(adapter, model, reference, rows, rng)
        assert ref is not None
        kl: Tensor | float = 0.0
        if loss_type == "kto":
            with torch.no_grad():
                kl = kto_kl(*score_rows(adapter, model, reference, _mismatched(rows), rng))  # type: ignore[arg-type]
        desirable = torch.tensor([good for _, good in items], device=mask.device)
        value, metrics = kto_loss(
            logp, ref, mask, desirable, kl, beta, desirable_weight, undesirable_weight, loss_type
        )
        return Loss(value, float(len(items)), metrics)

    return loss_fn


def score_pairs(
    adapter: Likelihood,
    model: nn.Module,
    reference: ScoresBatches | None,
    pairs: Sequence[Pair],
    rng: torch.Generator,
) -> tuple[PairScore, PairScore]:
    """:func:`score_rows` of the chosen and of the rejected answers.

    An adapter with ``shares_prompts`` gets both in one batch, so that they share their prompt's forward pass.
    """
    chosen, rejected = [pair.chosen for pair in pairs], [pair.rejected for pair in pairs]
    if not getattr(adapter, "shares_prompts", False):
        return (
            score_rows(adapter, model, reference, chosen, rng),
            score_rows(adapter, model, reference, rejected, rng),
        )
    logp, ref, mask = score_rows(adapter, model, reference, [*chosen, *rejected], rng)
    n = len(pairs)
    return (
        (logp[:n], None if ref is None else ref[:n], mask[:n]),
        (logp[n:], None if ref is None else ref[n:], mask[n:]),
    )


def score_rows(
    adapter: Likelihood,
    model: nn.Module,
    reference: ScoresBatches | None,
    rows: Sequence[Row],
    rng: torch.Generator,
) -> PairScore:
    """Policy and reference log-probabilities and the mask; leaves ``rng`` as it found it."""
    state = rng.get_state()
    batch = adapter.collate(rows)
    scored = adapter.logp(model, batch, rng)
    rng.set_state(state)
    ref = reference.logp(batch, rng) if reference is not None else None
    rng.set_state(state)
    return scored.values, ref, scored.mask


def _mismatched(rows: Sequence[Row]) -> list[Row]:
    """Every prompt with the answer of the row before (cyclically), as TRL does."""
    return [
        replace(row, id=f"{row.id}:kl", completion=other.completion, steps=other.steps)
        for row, other in zip(rows, [rows[-1], *rows[:-1]], strict=True)
    ]
