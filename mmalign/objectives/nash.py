"""Nash learning from preferences: mirror descent on a regularised game, exactly and by policy gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from mmalign.objectives.masked import masked_sum
from mmalign.objectives.shapes import check_floats, check_steps, fill

__all__ = ["mixture_log_weights", "nash_gap", "nash_md_loss", "nash_md_step"]


def nash_md_loss(
    logp: Tensor,
    logp_old: Tensor,
    logp_ref: Tensor,
    mask: Tensor,
    preference: Tensor,
    tau: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Policy gradient of ``P(y > y') - tau KL(policy || reference)`` for ``y`` of the policy, ``y'`` of its opponent.

    ``L = -mean_b sum_t ratio_t * (P_b - 1/2 - tau * sum_{s >= t} (logp_old_s - logp_ref_s))`` with
    ``ratio_t = exp(logp_t - logp_old_t)``.  At the first update (ratio 1) the gradient is exact: the KL's charge on a
    step holds all later steps, as the chain rule wants.

    *Reference:* Munos et al. (2023, arXiv:2312.00886). *Differs from paper:* ratio per step for later
    updates on one round's samples. *Differs from old TRL:* its KL multiplies each token's own log-ratio by its own
    log-probability and drops the cross terms.

    Args:
        logp: ``[B, T]`` nats, with gradient.
        logp_old: ``[B, T]`` nats under the policy that sampled; detached here.
        logp_ref: ``[B, T]`` nats under the reference mu; detached here.
        mask: ``[B, T]`` bool.
        preference: ``[B]`` probability that the opponent's answer is the worse one.
        tau: weight of the KL per nat, >= 0.

    Returns:
        scalar, and the metrics ``preference`` and ``kl_sample`` (nats per answer).

    Raises:
        ValueError: on shapes that differ, a preference outside [0, 1] or a negative ``tau``.
    """
    check_steps(mask, {"logp": logp, "logp_old": logp_old, "logp_ref": logp_ref})
    if preference.shape != mask.shape[:1] or bool(((preference < 0) | (preference > 1)).any()):
        raise ValueError(f"preference must hold [B] probabilities, got {tuple(preference.shape)}")
    if tau < 0:
        raise ValueError(f"tau: expected a number from 0, got {tau}")
    old = fill(logp_old.detach(), mask)
    log_ratio = old - fill(logp_ref.detach(), mask)
    to_go = log_ratio.flip(1).cumsum(1).flip(1)
    advantage = (preference.detach()[:, None] - 0.5) - tau * to_go
    ratio = torch.exp(fill(logp, mask) - old)
    value = -masked_sum(ratio * advantage, mask, 1).mean()
    return value, {
        "preference": preference.detach().mean(),
        "kl_sample": masked_sum(log_ratio, mask, 1).mean(),
    }


def mixture_log_weights(logp_policy: Tensor, logp_ref: Tensor, share: float) -> Tensor:
    """Log-weights that turn draws from ``(policy + reference) / 2`` into draws from the geometric mixture.

    ``log w = (1 - c) log pi + c log mu - log((pi + mu) / 2)``.  They never exceed log 2 (a geometric mean is below
    the larger of the two), so that resampling by them is stable however far apart the two policies are.

    *Reference:* the mixture: Munos et al. (2023, arXiv:2312.00886). *Differs from paper:* the paper mixes the
    logits of each token, which is another distribution than this, the mixture of whole answers in its theory.

    Args:
        logp_policy, logp_ref: ``[N]`` nats, summed over each answer.
        share: c in [0, 1], how much of the reference.

    Raises:
        ValueError: on shapes that differ or a share out of range.
    """
    check_floats({"logp_policy": logp_policy, "logp_ref": logp_ref}, 1)
    if not 0 <= share <= 1:
        raise ValueError(f"share: expected a number in [0, 1], got {share}")
    half = torch.logaddexp(logp_policy, logp_ref) - torch.log(torch.tensor(2.0, dtype=logp_policy.dtype))
    return (1 - share) * logp_policy + share * logp_ref - half


def nash_md_step(logp: Tensor, logp_ref: Tensor, preferences: Tensor, eta: float, tau: float) -> Tensor:
    """One exact step of Nash-MD on a finite set of answers.

    ``m ~ pi^(1 - eta tau) mu^(eta tau)``, ``pi' ~ m exp(eta P(. > m))``.  With a constant ``eta`` the gap stops at a
    floor that shrinks as eta^2; with ``eta_t = 2 / (tau (t + 2))`` it keeps falling.

    *Reference:* Munos et al. (2023, arXiv:2312.00886). *Differs from paper:* none.

    Args:
        logp, logp_ref: ``[V]`` nats, normalised.
        preferences: ``[V, V]``, entry (i, j) the probability that i is preferred to j.
        eta: step size, > 0, with ``eta * tau <= 1``.
        tau: weight of the regularisation.

    Returns:
        ``[V]`` nats, normalised.

    Raises:
        ValueError: when ``eta * tau`` is above 1.
    """
    if not 0 < eta * tau <= 1:
        raise ValueError(f"need 0 < eta * tau <= 1, got {eta} * {tau}")
    mixed = torch.log_softmax((1 - eta * tau) * logp + eta * tau * logp_ref, 0)
    return torch.log_softmax(mixed + eta * preferences @ mixed.exp(), 0)


def nash_gap(logp: Tensor, logp_ref: Tensor, preferences: Tensor, tau: float) -> Tensor:
    """How much the best answer to a policy gains in the regularised game; 0 at the Nash equilibrium alone.

    ``max_q [P(q > pi) - tau KL(q || mu)] + tau KL(pi || mu) - 1/2``; the maximum is
    ``tau logsumexp(log mu + P(. > pi) / tau)``, for ``tau`` 0 the largest entry.

    *Reference:* Munos et al. (2023, arXiv:2312.00886). *Differs from paper:* none.

    Args:
        logp, logp_ref: ``[V]`` nats, normalised.
        preferences: ``[V, V]``.
        tau: >= 0.

    Returns:
        scalar, >= 0 up to rounding.
    """
    wins = preferences @ logp.exp()
    if tau == 0:
        return wins.max() - 0.5
    best = tau * torch.logsumexp(logp_ref + wins / tau, 0)
    return best + tau * (logp.exp() * (logp - logp_ref)).sum() - 0.5
