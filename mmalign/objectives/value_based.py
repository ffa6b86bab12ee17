"""Learning from single transitions: targets of temporal differences, CQL and Cal-QL, SAC, IQL."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmalign.objectives.shapes import check_floats

__all__ = [
    "advantage_weights",
    "conservative_penalty",
    "expectile_loss",
    "monte_carlo_returns",
    "rewarded_cloning_loss",
    "sac_actor_loss",
    "td_loss",
    "td_target",
    "temperature_loss",
]


def td_target(reward: Tensor, next_value: Tensor, terminal: Tensor, gamma: float) -> Tensor:
    """One-step target ``y = r + gamma * (1 - terminal) * V(s')``; carries no gradient.

    ``terminal`` is the end of the *task* (success, failure).  A time limit or a change of task ends the recording but
    not the future: there ``terminal`` is false and the target looks beyond it.

    *Reference:* Pardo et al. (2018, arXiv:1712.00378) on time limits. *Differs from paper:* none.

    Args:
        reward: ``[B]``.
        next_value: ``[B]`` value of the next state.
        terminal: ``[B]`` bool.
        gamma: discount per step, in [0, 1].

    Raises:
        ValueError: on shapes that differ, a ``terminal`` that is not boolean, or a ``gamma`` out of range.
    """
    check_floats({"reward": reward, "next_value": next_value}, 1)
    _check_terminal(terminal, reward)
    _check_gamma(gamma)
    future = torch.where(terminal, torch.zeros_like(next_value), next_value)
    return (reward + gamma * future).detach()


def td_loss(q: Tensor, target: Tensor) -> Tensor:
    """Half the squared error of ``E`` critics, summed over critics, mean over transitions.

    Args:
        q: ``[E, B]`` with gradient.
        target: ``[B]``; detached here.

    Raises:
        ValueError: on shapes that do not fit.
    """
    check_floats({"q": q}, 2)
    check_floats({"target": target, "q[0]": q[0]}, 1)
    return 0.5 * (q - target.detach()).square().mean(1).sum()


def monte_carlo_returns(
    reward: Tensor, terminal: Tensor, ends: Tensor, gamma: float, tail: Tensor | float = 0.0
) -> Tensor:
    """Discounted sum of rewards from each step to the end of its trajectory, for trajectories laid end to end.

    ``G_t = r_t + gamma * G_{t+1}``; ``G_t = r_t`` at a terminal step, ``r_t + gamma * tail`` at one that ends the
    recording without being terminal.  It must be computed with the rewards *as the critic sees them* (scaled and
    shifted) and the critic's ``gamma``, for collected data too: a return of 0 where rewards are negative lies above
    the value and would switch Cal-QL's conservatism off.

    *Reference:* Nakamoto et al., Cal-QL (2023, arXiv:2303.05479). *Differs from its code:* the value beyond a cut
    recording is said by ``tail``, instead of by a special case of sparse rewards.

    Args:
        reward: ``[N]`` in time order.
        terminal: ``[N]`` bool, the task ended here.
        ends: ``[N]`` bool, last step of a trajectory; every terminal step and the last of all must be one.
        gamma: discount per step.
        tail: what lies beyond a cut recording, a number or ``[N]`` (read at cut steps): 0 is a lower bound where
            rewards are not negative.

    Raises:
        ValueError: on shapes that differ, or a terminal or last step that ends nothing.
    """
    check_floats({"reward": reward}, 1)
    _check_terminal(terminal, reward)
    _check_terminal(ends, reward)
    _check_gamma(gamma)
    if len(reward) and (not bool(ends[-1]) or bool((terminal & ~ends).any())):
        raise ValueError("ends: every terminal step, and the last step of all, must end a trajectory")
    beyond = torch.as_tensor(tail, dtype=reward.dtype).expand_as(reward)
    returns = torch.empty_like(reward)
    running = reward.new_zeros(())
    for t in range(len(reward) - 1, -1, -1):
        if bool(ends[t]):
            running = reward.new_zeros(()) if bool(terminal[t]) else beyond[t]
        running = reward[t] + gamma * running
        returns[t] = running
    return returns


def conservative_penalty(
    q_data: Tensor,
    q_uniform: Tensor,
    q_policy: Tensor,
    logp_policy: Tensor,
    action_dims: int,
    mc_return: Tensor | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """CQL's regulariser per transition, calibrated where ``mc_return`` is given.

    ``R = c logsumexp_j(x_j / c) - Q(s, a_data)`` over uniform actions, ``x = Q(s, u) + d log 2`` (their density on
    [-1, 1]^d), and actions of the policy at s and at s', ``x = Q(s, a) - log pi(a)``.  Cal-QL replaces ``Q(s, a)`` of
    the policy's actions alone by ``max(Q(s, a), mc_return(s))``: below the return it is not pushed down further, and
    its gradient is exactly 0.  With ``mc_return = -inf`` this is CQL bit for bit.

    *Reference:* Kumar et al., CQL (2020, arXiv:2006.04779), eq. 4, with importance sampling; Nakamoto et al., Cal-QL
    (2023, arXiv:2303.05479). *Differs from code:* fixed weight, no Lagrange multiplier.

    Args:
        q_data: ``[B]`` value of the recorded action.
        q_uniform: ``[B, N]`` values of actions drawn uniformly in [-1, 1]^d.
        q_policy: ``[B, M]`` values *at s* of actions the policy drew at s and at s'.
        logp_policy: ``[B, M]`` nats of those actions; detached here.
        action_dims: d.
        mc_return: ``[B]`` return from s on, or ``None`` for CQL.
        temperature: c, > 0.

    Returns:
        ``[B]``.

    Raises:
        ValueError: on shapes that do not fit or a temperature that is not positive.
    """
    check_floats({"q_uniform": q_uniform}, 2)
    check_floats({"q_policy": q_policy, "logp_policy": logp_policy}, 2)
    check_floats({"q_data": q_data, "q_policy[:, 0]": q_policy[:, 0]}, 1)
    if temperature <= 0:
        raise ValueError(f"temperature: expected a number above 0, got {temperature}")
    if mc_return is not None:
        check_floats({"q_data": q_data, "mc_return": mc_return}, 1)
        q_policy = torch.maximum(q_policy, mc_return.detach()[:, None].expand_as(q_policy))
    known = [q_uniform + action_dims * math.log(2.0), q_policy - logp_policy.detach()]
    spread = temperature * torch.logsumexp(torch.cat(known, 1) / temperature, 1)
    return spread - q_data


def sac_actor_loss(logp: Tensor, q: Tensor, alpha: float | Tensor) -> Tensor:
    """Maximum-entropy policy loss ``mean(alpha log pi(a) - Q(s, a))`` of reparameterised actions.

    *Reference:* Haarnoja et al. (2018, arXiv:1812.05905), eq. 7. *Differs from paper:* none.

    Args:
        logp: ``[B]`` nats of the drawn action, with gradient.
        q: ``[B]`` smallest critic's value of that action, with gradient through the action.
        alpha: temperature; detached here.

    Raises:
        ValueError: on shapes that differ.
    """
    check_floats({"logp": logp, "q": q}, 1)
    weight = alpha.detach() if isinstance(alpha, Tensor) else alpha
    return (weight * logp - q).mean()


def temperature_loss(log_alpha: Tensor, logp: Tensor, target_entropy: float) -> Tensor:
    """Loss of the temperature: it rises while the policy's entropy is below its target.

    ``L = -mean(log_alpha * (log pi(a) + target))``, of which the gradient in ``log_alpha`` is entropy minus target.

    *Reference:* Haarnoja et al. (2018, arXiv:1812.05905), eq. 18. *Differs from paper:* linear in ``log_alpha``
    instead of alpha, as the authors' code.

    Args:
        log_alpha: scalar with gradient.
        logp: ``[B]`` nats; detached here.
        target_entropy: nats; minus the number of action dimensions is usual.
    """
    check_floats({"logp": logp}, 1)
    return -(log_alpha * (logp.detach() + target_entropy)).mean()


def expectile_loss(difference: Tensor, tau: float) -> Tensor:
    """Asymmetric squared error ``mean |tau - 1(d < 0)| d^2`` of ``d = Q(s, a) - V(s)``; tau 1/2 is half the square.

    *Reference:* Kostrikov et al., IQL (2021, arXiv:2110.06169), eq. 5. *Differs from paper:* none.

    Args:
        difference: ``[B]`` with gradient through V.
        tau: in (0, 1); larger looks at better actions of the data.

    Raises:
        ValueError: on a ``tau`` out of range.
    """
    check_floats({"difference": difference}, 1)
    if not 0 < tau < 1:
        raise ValueError(f"tau: expected a number between 0 and 1, got {tau}")
    weight = torch.where(difference.detach() < 0, 1 - tau, tau)
    return (weight * difference.square()).mean()


def advantage_weights(advantage: Tensor, temperature: float, largest: float = 100.0) -> Tensor:
    """Weights ``min(exp(temperature * A), largest)`` of a weighted likelihood (IQL's policy extraction).

    *Reference:* Kostrikov et al., IQL (2021, arXiv:2110.06169), eq. 7; Peng et al., AWR (2019, arXiv:1910.00177).
    *Differs from paper:* none.

    Args:
        advantage: ``[B]``; detached here.
        temperature: inverse temperature, >= 0; 0 weights all alike (behaviour cloning).
        largest: > 0.

    Raises:
        ValueError: on a negative temperature or a ``largest`` that is not positive.
    """
    check_floats({"advantage": advantage}, 1)
    if temperature < 0 or largest <= 0:
        raise ValueError(f"expected temperature >= 0 and largest > 0, got {temperature} and {largest}")
    return torch.exp((temperature * advantage.detach()).clamp(max=math.log(largest)))


def rewarded_cloning_loss(logp: Tensor, mc_return: Tensor) -> Tensor:
    """Minus the likelihood of actions that a reward came after, ``-mean(log pi(a) * 1[R > 0])``.

    *Reference:* self-imitation, Oh et al. (2018, arXiv:1806.05635), eq. 2. *Differs from paper:* weight 1 where the
    return is above 0, not ``max(R - V, 0)``, which dies out as the values become right.

    Args:
        logp: ``[B]`` of the actions that were taken, with gradient.
        mc_return: ``[B]`` what they came to.

    Raises:
        ValueError: on shapes that differ.
    """
    check_floats({"logp": logp, "mc_return": mc_return}, 1)
    return -(logp * (mc_return > 0)).mean()


def _check_terminal(flags: Tensor, like: Tensor) -> None:
    if flags.dtype != torch.bool or flags.shape != like.shape:
        raise ValueError(
            f"terminal and ends must be boolean {tuple(like.shape)}, got {flags.dtype} {tuple(flags.shape)}"
        )


def _check_gamma(gamma: float) -> None:
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma: expected a number in [0, 1], got {gamma}")
