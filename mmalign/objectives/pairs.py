"""What every pair objective reads: two answers' log-probabilities, reduced once and by the mask alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from mmalign.objectives.masked import masked_sum
from mmalign.objectives.shapes import check_steps

__all__ = ["Divergence", "PairScores", "PairSettings", "divergence_score", "pair_scores", "sequence_logps"]

Divergence = Literal["reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"]
"""Which f-divergence keeps the policy near the reference; see :func:`divergence_score`."""

_EXP_MAX = 80.0


@dataclass(frozen=True, slots=True)
class PairSettings:
    """Settings of :func:`mmalign.objectives.preference.preference_loss`; names and defaults are TRL's.

    Args:
        loss_type: names in ``PAIR_LOSSES``; several are summed with ``loss_weights``.
        loss_weights: one weight per name; all 1 when ``None``.
        beta: inverse temperature of the implicit reward, > 0 (the regulariser tau of ``ipo``).
        label_smoothing: the share of labels thought wrong, in [0, 0.5).
        f_divergence_type: the penalty that ties policy to reference; ``reverse_kl`` is DPO.
        f_alpha_divergence_coef: alpha of ``alpha_divergence``; 1 is ``reverse_kl``.
        ld_alpha: weight of the steps beyond the shorter answer's length, in [0, 1]; ``None`` is 1.
        simpo_gamma: target margin of ``simpo``, in units of the (beta-scaled) reward.
        cpo_alpha: weight of the likelihood term of ``cpo``.
        discopop_tau: temperature of the blend in ``discopop``, > 0.

    Raises:
        ValueError: on a number out of range or weights that do not match the names.
    """

    loss_type: tuple[str, ...] = ("sigmoid",)
    loss_weights: tuple[float, ...] | None = None
    beta: float = 0.1
    label_smoothing: float = 0.0
    f_divergence_type: Divergence = "reverse_kl"
    f_alpha_divergence_coef: float = 0.5
    ld_alpha: float | None = None
    simpo_gamma: float = 0.5
    cpo_alpha: float = 1.0
    discopop_tau: float = 0.05

    def __post_init__(self) -> None:
        if not self.beta > 0 or not 0 <= self.label_smoothing < 0.5:
            raise ValueError(
                f"need beta > 0 and label_smoothing in [0, 0.5), got {self.beta} and {self.label_smoothing}"
            )
        if not self.loss_type:
            raise ValueError("loss_type: name at least one loss")
        if self.loss_weights is not None and len(self.loss_weights) != len(self.loss_type):
            raise ValueError(
                f"loss_weights: {len(self.loss_weights)} numbers for {len(self.loss_type)} names in loss_type"
            )
        if self.ld_alpha is not None and not 0 <= self.ld_alpha <= 1:
            raise ValueError(f"ld_alpha: expected a number in [0, 1], got {self.ld_alpha}")
        if not self.discopop_tau > 0:
            raise ValueError(f"discopop_tau: expected a number above 0, got {self.discopop_tau}")
        if "exo_pair" in self.loss_type and self.label_smoothing == 0:
            raise ValueError(
                "exo_pair needs label_smoothing > 0: its target gives the rejected answer some mass"
            )


@dataclass(frozen=True, slots=True)
class PairScores:
    """Numbers per pair, all ``[B]`` and in nats unless said otherwise; ``w`` is chosen, ``l`` rejected.

    Args:
        logp_w, logp_l: summed log-probability (after ``ld_alpha``), with gradient.
        ref_w, ref_l: the same under the reference, without; ``None`` for reference-free losses.
        steps_w, steps_l: real steps of each answer.
        score_w, score_l: ``f'(ratio)`` of the divergence; the log-ratio itself for ``reverse_kl``.
        nll_w: scalar, mean negative log-likelihood of the chosen answers' steps.
    """

    logp_w: Tensor
    logp_l: Tensor
    ref_w: Tensor | None
    ref_l: Tensor | None
    steps_w: Tensor
    steps_l: Tensor
    score_w: Tensor
    score_l: Tensor
    nll_w: Tensor

    @property
    def ratio_w(self) -> Tensor:
        """Log-ratio to the reference of the chosen answers (the log-probability without one)."""
        return self.logp_w if self.ref_w is None else self.logp_w - self.ref_w

    @property
    def ratio_l(self) -> Tensor:
        """Log-ratio to the reference of the rejected answers (the log-probability without one)."""
        return self.logp_l if self.ref_l is None else self.logp_l - self.ref_l


def divergence_score(log_ratio: Tensor, kind: Divergence = "reverse_kl", alpha: float = 0.5) -> Tensor:
    """Derivative ``f'(t)`` at ``t = exp(log_ratio)`` of the divergence that the pair objective is derived from.

    ``reverse_kl``: ``log t`` · ``forward_kl``: ``1 - 1/t`` · ``js_divergence``: ``log 2 + log sigmoid(log t)``
    · ``alpha_divergence``: ``(t^(alpha - 1) - 1) / (alpha - 1)``.

    *Reference:* Wang et al., "Beyond Reverse KL" (2023, arXiv:2309.16240), table 1. *Differs from paper:*
    constants that cancel in the difference of two answers are TRL's; exponents are capped at 80.

    Args:
        log_ratio: any shape, ``log pi - log pi_ref`` in nats.
        kind: the divergence.
        alpha: of ``alpha_divergence`` only.

    Raises:
        ValueError: on an unknown kind.
    """
    if kind == "reverse_kl" or (kind == "alpha_divergence" and abs(alpha - 1.0) < 1e-6):
        return log_ratio
    if kind == "forward_kl":
        return 1.0 - torch.exp((-log_ratio).clamp(max=_EXP_MAX))
    if kind == "js_divergence":
        return math.log(2.0) + functional.logsigmoid(log_ratio)
    if kind == "alpha_divergence":
        return torch.expm1(((alpha - 1.0) * log_ratio).clamp(max=_EXP_MAX)) / (alpha - 1.0)
    raise ValueError(
        f"unknown divergence {kind!r}, expected reverse_kl, forward_kl, js_divergence, alpha_divergence"
    )


def sequence_logps(
    logp_w: Tensor, logp_l: Tensor, mask_w: Tensor, mask_l: Tensor, ld_alpha: float | None = None
) -> tuple[Tensor, Tensor]:
    """Sum each answer's log-probabilities; with ``ld_alpha`` the longer answer's surplus steps count less.

    ``S = sum_{t <= m} logp_t + ld_alpha * sum_{t > m} logp_t`` with m the shorter answer's number of steps.

    *Reference:* Liu et al., "Length Desensitization in DPO" (2024, arXiv:2409.06411), eq. 8. *Differs from
    paper:* none.

    Args:
        logp_w, logp_l: ``[B, Tw]`` and ``[B, Tl]`` nats.
        mask_w, mask_l: bool, the answers only.
        ld_alpha: in [0, 1]; ``None`` (or 1) is the plain sum.

    Returns:
        two ``[B]`` tensors in nats.
    """
    if ld_alpha is None:
        return masked_sum(logp_w, mask_w, 1), masked_sum(logp_l, mask_l, 1)
    shared = torch.minimum(mask_w.sum(1), mask_l.sum(1)).unsqueeze(1)
    out = []
    for logp, mask in ((logp_w, mask_w), (logp_l, mask_l)):
        surplus = mask & (mask.cumsum(1) > shared)
        out.append(masked_sum(logp, mask & ~surplus, 1) + ld_alpha * masked_sum(logp, surplus, 1))
    return out[0], out[1]


def pair_scores(
    logp_w: Tensor,
    logp_l: Tensor,
    ref_w: Tensor | None,
    ref_l: Tensor | None,
    mask_w: Tensor,
    mask_l: Tensor,
    settings: PairSettings,
) -> PairScores:
    """Reduce per-step tensors to :class:`PairScores`; the reference is detached here.

    Args:
        logp_w, logp_l: ``[B, Tw]`` and ``[B, Tl]`` nats, with gradient.
        ref_w, ref_l: the same under the reference, or both ``None``.
        mask_w, mask_l: bool, the answers only.
        settings: ``ld_alpha`` and the divergence are used here.

    Raises:
        ValueError: on shapes that differ, one reference without the other, or an answer without a step.
    """
    check_steps(mask_w, {"logp_chosen": logp_w} | ({} if ref_w is None else {"logp_ref_chosen": ref_w}))
    check_steps(mask_l, {"logp_rejected": logp_l} | ({} if ref_l is None else {"logp_ref_rejected": ref_l}))
    if (ref_w is None) != (ref_l is None) or mask_w.shape[0] != mask_l.shape[0]:
        raise ValueError("chosen and rejected must have as many rows, and both a reference or neither")
    steps_w, steps_l = mask_w.sum(1), mask_l.sum(1)
    empty = torch.nonzero((steps_w == 0) | (steps_l == 0)).flatten().tolist()
    if empty:
        raise ValueError(f"pair {empty[0]} has an answer without a single real step")
    sum_w, sum_l = sequence_logps(logp_w, logp_l, mask_w, mask_l, settings.ld_alpha)
    base_w, base_l = None, None
    if ref_w is not None and ref_l is not None:
        base_w, base_l = sequence_logps(ref_w.detach(), ref_l.detach(), mask_w, mask_l, settings.ld_alpha)
    ratios = [s if b is None else s - b for s, b in ((sum_w, base_w), (sum_l, base_l))]
    kind, alpha = settings.f_divergence_type, settings.f_alpha_divergence_coef
    score_w, score_l = (divergence_score(ratio, kind, alpha) for ratio in ratios)
    nll = -masked_sum(logp_w, mask_w) / steps_w.sum()
    return PairScores(sum_w, sum_l, base_w, base_l, steps_w, steps_l, score_w, score_l, nll)
