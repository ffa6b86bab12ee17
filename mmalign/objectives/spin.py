"""SPIN's exact round: where self-play fine-tuning moves the opponent, and why a small beta overshoots.

The loss itself is the sigmoid pair loss with the data's answer as chosen, a sample of the round's first policy as
rejected and that policy as reference; nothing new is needed for it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmalign.objectives.shapes import check_floats

__all__ = ["spin_minimiser", "spin_population_loss"]


def spin_minimiser(logp_data: Tensor, logp_opponent: Tensor, beta: float) -> Tensor:
    """Log-probabilities of the exact minimiser of one round: ``p_opp * (p_data / p_opp)^(1 / beta)``, normalised.

    A fixed point whenever data and opponent agree.  At ``beta`` 1 one round reaches the data, above 1 it contracts,
    and **below 1 it overshoots** by 1/beta in log space: the shipped 0.1 is kept in check by stopping early alone.

    *Reference:* Chen et al. (2024, arXiv:2401.01335), theorem 5.4. *Differs from paper:* normalised (the paper states
    it up to a constant).

    Args:
        logp_data: ``[V]`` nats; log-probabilities of the data.
        logp_opponent: ``[V]`` nats; those of the round's first policy.
        beta: the paper's lambda, > 0.

    Raises:
        ValueError: on shapes that differ or a ``beta`` that is not above 0.
    """
    check_floats({"logp_data": logp_data, "logp_opponent": logp_opponent}, 1)
    if not beta > 0:
        raise ValueError(f"beta: expected a number above 0, got {beta}")
    return torch.log_softmax(logp_opponent + (logp_data - logp_opponent) / beta, dim=0)


def spin_population_loss(logp: Tensor, logp_data: Tensor, logp_opponent: Tensor, beta: float) -> Tensor:
    """The round's loss with exact expectations over a finite set of answers (what the sampled loss estimates).

    ``E_{y ~ data, y' ~ opp} -log sigmoid(beta [(logp - logp_opp)(y) - (logp - logp_opp)(y')])``

    *Reference:* as :func:`spin_minimiser`. *Differs from paper:* none.

    Args:
        logp: ``[V]`` nats, with gradient.
        logp_data, logp_opponent: ``[V]`` nats, detached here.
        beta: > 0.

    Returns:
        scalar; log 2 at ``logp = logp_opponent``.

    Raises:
        ValueError: on shapes that differ.
    """
    check_floats({"logp": logp, "logp_data": logp_data, "logp_opponent": logp_opponent}, 1)
    ratio = logp - logp_opponent.detach()
    margins = beta * (ratio[:, None] - ratio[None, :])
    weights = (logp_data[:, None] + logp_opponent[None, :]).detach().exp()
    return -(weights * torch.nn.functional.logsigmoid(margins)).sum()
