"""The loss of a reward that is differentiated through the answer itself."""

from __future__ import annotations

import torch
from torch import Tensor

from mmalign.objectives.shapes import check_floats

__all__ = ["pathwise_loss"]


def pathwise_loss(reward: Tensor, cap: float | None = None) -> Tensor:
    """``-mean(r)``, or with a cap ``mean(relu(cap - r))``, whose gradient is 0 on answers that reach the cap.

    *Reference:* ReFL: Xu et al., ImageReward (2023), arXiv:2304.05977, eq. 5 (``relu(2 - r)`` in its code);
    DRaFT: Clark et al. (2023), arXiv:2309.17400, eq. 1; AlignProp: Prabhudesai et al. (2023), arXiv:2310.03739.
    *Differs from papers:* no scale such as ReFL's 1e-3: the learning rate is the place for it.

    Args:
        reward: ``[B]`` with gradient.
        cap: reward from which on an answer is good enough, or ``None``.

    Returns:
        a scalar.

    Raises:
        ValueError: when ``reward`` is no vector of floats.
    """
    check_floats({"reward": reward}, 1)
    return -reward.mean() if cap is None else torch.relu(cap - reward).mean()
