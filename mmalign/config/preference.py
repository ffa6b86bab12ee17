"""The sections of the offline preference stages; names and most defaults are TRL's."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, model_validator

from mmalign.config.fields import Bool, Count, Float, NonNegative, Positive, PositiveCount, Section, Share

__all__ = ["DPOConfig", "KTOConfig", "PairsConfig"]


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class PairsConfig(Section):
    """What the stages that learn from compared answers have in common."""

    max_steps: Count = 100
    """Optimiser steps; 0 skips the stage."""
    per_device_train_batch_size: PositiveCount = 8
    """Pairs (for ``kto``: answers) per forward pass and process."""
    learning_rate: Positive = 1e-6
    """Peak learning rate (1e-6 for all weights, 1e-5 for LoRA)."""
    warmup_ratio: Share = 0.1
    """Share of the steps over which the learning rate rises from 0."""
    max_grad_norm: Positive = 1.0
    """Gradients are clipped to this norm."""
    weight_decay: NonNegative = 0.0
    """Decoupled weight decay."""
    beta: Positive = 0.1
    """Inverse temperature of the implicit reward: larger stays closer to the reference."""
    reference: Literal["auto", "adapter_off", "copy", "cache"] = "auto"
    """``cache`` computes log-probabilities once and keeps them on disk; ``auto`` does so where training reads every
    row at least once, and else switches a tuner off or copies the model."""
    pairs: Literal["data", "feedback"] = "data"
    """``chosen`` and ``rejected`` of the rows, or the best and worst labelled answers of stage ``feedback``."""
    n_pairs: PositiveCount | None = None
    """Use at most so many pairs; null uses all."""
    shuffle_labels: Bool = False
    """Control arm: which answer of a training pair is the better one is drawn at random."""
    n_heldout: PositiveCount = 64
    """Validation pairs on which the margin is measured before and after."""
    save_steps: PositiveCount = 50
    """Write a checkpoint every so many steps."""


class DPOConfig(PairsConfig):
    """Pair objectives; equations in docs/objectives/preference.md."""

    loss_type: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ("sigmoid",)
    """One or several of the names in docs/objectives/preference.md; several are summed."""
    loss_weights: tuple[Float, ...] | None = None
    """A weight per name in ``loss_type``; null for all 1."""
    label_smoothing: Share = 0.0
    """Share of the labels thought wrong, below 0.5."""
    f_divergence_type: Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"] = "reverse_kl"
    """The divergence that ties the policy to the reference."""
    f_alpha_divergence_coef: Float = 0.5
    """Alpha of ``alpha_divergence``."""
    ld_alpha: Share | None = None
    """Weight of the steps beyond the shorter answer's length; null for 1."""
    simpo_gamma: NonNegative = 0.5
    """Target margin of ``simpo``."""
    cpo_alpha: NonNegative = 1.0
    """Weight of the likelihood term of ``cpo``."""
    discopop_tau: Positive = 0.05
    """Temperature of the blend in ``discopop``."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.label_smoothing >= 0.5:
            raise ValueError(f"label_smoothing: expected below 0.5, got {self.label_smoothing}")
        if self.loss_weights is not None and len(self.loss_weights) != len(self.loss_type):
            raise ValueError(
                f"loss_weights: {len(self.loss_weights)} numbers for {len(self.loss_type)} names in loss_type"
            )
        return self


class KTOConfig(PairsConfig):
    """Single answers marked good or bad."""

    loss_type: Literal["kto", "apo_zero_unpaired"] = "kto"
    """KTO, or the unpaired form of APO-zero (no KL estimate)."""
    desirable_weight: NonNegative = 1.0
    """Weight of good answers."""
    undesirable_weight: NonNegative = 1.0
    """Weight of bad answers; keep (weight x count) of both within a factor of 4/3."""

    @model_validator(mode="after")
    def _no_cache(self) -> Self:
        if self.loss_type == "kto" and self.per_device_train_batch_size < 2:
            raise ValueError(
                "per_device_train_batch_size: kto swaps answers within each batch, so it needs at least 2, got 1"
            )
        if self.reference == "cache" and self.loss_type == "kto":
            raise ValueError(
                "reference: kto scores answers swapped within each batch, which nobody can compute beforehand; "
                "use auto, or loss_type: apo_zero_unpaired"
            )
        return self
