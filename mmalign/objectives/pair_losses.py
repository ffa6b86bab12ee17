"""The pair objectives: each a function of :class:`PairScores`, one loss per pair.

What a loss does with two numbers is all that differs between them; how the numbers come about (a sum of token
log-probabilities, a denoising surrogate, a mean) is decided before.  Equations: docs/objectives/preference.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mmalign.objectives.pairs import PairScores, PairSettings

__all__ = ["PAIR_LOSSES", "PairLoss", "log1mexp", "smoothed_logistic"]

_log_sigmoid = functional.logsigmoid


@dataclass(frozen=True, slots=True)
class PairLoss:
    """A pair objective and what it needs.

    Args:
        loss: ``(scores, settings) -> [B]``.
        reference: whether it reads a reference policy.
        coupled: whether it couples the pairs of a batch (a sort, a batch mean), so that splitting a batch into
            micro-batches changes it.
        source: where it comes from.
        smoothed: whether it reads ``label_smoothing``.
        divergence: whether it reads ``f_divergence_type``.
    """

    loss: Callable[[PairScores, PairSettings], Tensor]
    reference: bool
    source: str
    coupled: bool = False
    smoothed: bool = False
    divergence: bool = False


def smoothed_logistic(logits: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """``-(1 - e) log sigmoid(x) - e log sigmoid(-x)``, elementwise, in nats."""
    right = -(1.0 - label_smoothing) * _log_sigmoid(logits)
    return right if label_smoothing == 0.0 else right - label_smoothing * _log_sigmoid(-logits)


def log1mexp(x: Tensor) -> Tensor:
    """``log(1 - exp(x))`` for x < 0 without cancellation; x is capped at -1e-7."""
    x = x.clamp(max=-1e-7)
    near = x > -math.log(2.0)
    safe_near = torch.where(near, x, torch.full_like(x, -1.0))
    safe_far = torch.where(near, torch.full_like(x, -1.0), x)
    return torch.where(near, torch.log(-torch.expm1(safe_near)), torch.log1p(-torch.exp(safe_far)))


def _margin(p: PairScores, s: PairSettings) -> Tensor:
    return s.beta * (p.score_w - p.score_l)


def _mean_gap(p: PairScores) -> Tensor:
    return p.score_w / p.steps_w - p.score_l / p.steps_l


def _sigmoid(p: PairScores, s: PairSettings) -> Tensor:
    return smoothed_logistic(_margin(p, s), s.label_smoothing)


def _sigmoid_norm(p: PairScores, s: PairSettings) -> Tensor:
    return smoothed_logistic(s.beta * _mean_gap(p), s.label_smoothing)


def _robust(p: PairScores, s: PairSettings) -> Tensor:
    x, e = _margin(p, s), s.label_smoothing
    return (-(1.0 - e) * _log_sigmoid(x) + e * _log_sigmoid(-x)) / (1.0 - 2.0 * e)


def _hinge(p: PairScores, s: PairSettings) -> Tensor:
    return torch.relu(1.0 - _margin(p, s))


def _ipo(p: PairScores, s: PairSettings) -> Tensor:
    return (_mean_gap(p) - 0.5 / s.beta).square()


def _ipo_sum(p: PairScores, s: PairSettings) -> Tensor:
    return (p.score_w - p.score_l - 0.5 / s.beta).square()


def _exo_pair(p: PairScores, s: PairSettings) -> Tensor:
    x, e = _margin(p, s), s.label_smoothing
    towards = torch.sigmoid(x) * (_log_sigmoid(x) - math.log1p(-e))
    return towards + torch.sigmoid(-x) * (_log_sigmoid(-x) - math.log(e))


def _nca_pair(p: PairScores, s: PairSettings) -> Tensor:
    w, l = s.beta * p.ratio_w, s.beta * p.ratio_l  # noqa: E741
    return -_log_sigmoid(w) - 0.5 * _log_sigmoid(-w) - 0.5 * _log_sigmoid(-l)


def _bco_pair(p: PairScores, s: PairSettings) -> Tensor:
    return -_log_sigmoid(s.beta * p.ratio_w) - _log_sigmoid(-s.beta * p.ratio_l)


def _sppo_hard(p: PairScores, s: PairSettings) -> Tensor:
    return (p.ratio_w - 0.5 / s.beta).square() + (p.ratio_l + 0.5 / s.beta).square()


def _aot(p: PairScores, s: PairSettings) -> Tensor:
    ref = torch.zeros_like(p.logp_w) if p.ref_w is None or p.ref_l is None else p.ref_w - p.ref_l
    gap = (p.logp_w - p.logp_l).sort().values - ref.sort().values
    return smoothed_logistic(s.beta * gap, s.label_smoothing)


def _aot_unpaired(p: PairScores, s: PairSettings) -> Tensor:
    gap = p.ratio_w.sort().values - p.ratio_l.sort().values
    return smoothed_logistic(s.beta * gap, s.label_smoothing)


def _apo_zero(p: PairScores, s: PairSettings) -> Tensor:
    return torch.sigmoid(-s.beta * p.ratio_w) + torch.sigmoid(s.beta * p.ratio_l)


def _apo_down(p: PairScores, s: PairSettings) -> Tensor:
    return torch.sigmoid(s.beta * p.ratio_w) + torch.sigmoid(-s.beta * (p.ratio_w - p.ratio_l))


def _discopop(p: PairScores, s: PairSettings) -> Tensor:
    x = _margin(p, s)
    blend = torch.sigmoid(x / s.discopop_tau)
    return -_log_sigmoid(x) * (1.0 - blend) + torch.exp(-x) * blend


def _sft(p: PairScores, s: PairSettings) -> Tensor:
    return p.nll_w.expand(p.logp_w.shape[0])


def _simpo(p: PairScores, s: PairSettings) -> Tensor:
    gap = p.logp_w / p.steps_w - p.logp_l / p.steps_l
    return smoothed_logistic(s.beta * gap - s.simpo_gamma, s.label_smoothing)


def _cpo(p: PairScores, s: PairSettings) -> Tensor:
    return smoothed_logistic(s.beta * (p.logp_w - p.logp_l), s.label_smoothing) + s.cpo_alpha * p.nll_w


def _orpo(p: PairScores, s: PairSettings) -> Tensor:
    mean_w, mean_l = p.logp_w / p.steps_w, p.logp_l / p.steps_l
    log_odds = (mean_w - mean_l) - (log1mexp(mean_w) - log1mexp(mean_l))
    return p.nll_w - s.beta * _log_sigmoid(log_odds)


PAIR_LOSSES: dict[str, PairLoss] = {
    "sigmoid": PairLoss(
        _sigmoid,
        True,
        "DPO, Rafailov et al. 2023, arXiv:2305.18290, eq. 7; with smoothing cDPO",
        smoothed=True,
        divergence=True,
    ),
    "sigmoid_norm": PairLoss(
        _sigmoid_norm,
        True,
        "length-normalised DPO, Lambert et al. 2024, arXiv:2411.15124",
        smoothed=True,
        divergence=True,
    ),
    "robust": PairLoss(
        _robust, True, "rDPO, Chowdhury et al. 2024, arXiv:2403.00409, eq. 12", smoothed=True, divergence=True
    ),
    "hinge": PairLoss(
        _hinge, True, "SLiC-HF, Zhao et al. 2023, arXiv:2305.10425; RSO, arXiv:2309.06657", divergence=True
    ),
    "ipo": PairLoss(
        _ipo,
        True,
        "IPO, Azar et al. 2023, arXiv:2310.12036, eq. 17, per-step mean as in TRL",
        divergence=True,
    ),
    "ipo_sum": PairLoss(
        _ipo_sum, True, "IPO, Azar et al. 2023, arXiv:2310.12036, eq. 17, as printed", divergence=True
    ),
    "exo_pair": PairLoss(
        _exo_pair, True, "EXO, Ji et al. 2024, arXiv:2402.00856, eq. 16", smoothed=True, divergence=True
    ),
    "nca_pair": PairLoss(_nca_pair, True, "NCA, Chen et al. 2024, arXiv:2402.05369"),
    "bco_pair": PairLoss(_bco_pair, True, "BCO, Jung et al. 2024, arXiv:2404.04656, reward shift 0"),
    "sppo_hard": PairLoss(_sppo_hard, True, "SPPO, Wu et al. 2024, arXiv:2405.00675, eq. 4.7, hard labels"),
    "aot": PairLoss(
        _aot, True, "AOT paired, Melnyk et al. 2024, arXiv:2406.05882", coupled=True, smoothed=True
    ),
    "aot_unpaired": PairLoss(
        _aot_unpaired, True, "AOT unpaired, arXiv:2406.05882", coupled=True, smoothed=True
    ),
    "apo_zero": PairLoss(_apo_zero, True, "APO-zero, D'Oosterlinck et al. 2024, arXiv:2408.06266, eq. 7"),
    "apo_down": PairLoss(_apo_down, True, "APO-down, arXiv:2408.06266, eq. 8"),
    "discopop": PairLoss(
        _discopop, True, "DiscoPOP, Lu et al. 2024, arXiv:2406.08414, eq. 5", divergence=True
    ),
    "sft": PairLoss(_sft, False, "likelihood of the chosen answers (RPO, arXiv:2404.19733)", coupled=True),
    "simpo": PairLoss(_simpo, False, "SimPO, Meng et al. 2024, arXiv:2405.14734, eq. 6", smoothed=True),
    "cpo": PairLoss(_cpo, False, "CPO, Xu et al. 2024, arXiv:2401.08417, eq. 3", coupled=True, smoothed=True),
    "orpo": PairLoss(_orpo, False, "ORPO, Hong et al. 2024, arXiv:2403.07691, eq. 6", coupled=True),
}
"""Name -> objective.  ``sft``, ``cpo`` and ``orpo`` average the likelihood over the batch's steps, as TRL does."""
