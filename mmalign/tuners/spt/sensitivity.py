"""How much a small step at each weight lowers the loss, and the controls it is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

import torch
from torch import Tensor

from mmalign.errors import UserError
from mmalign.tuners.anatomy import Anatomy
from mmalign.tuners.definition import Probe

__all__ = ["Scores", "magnitude_scores", "random_scores", "sensitivity"]

Scores = Mapping[tuple[str, str], Tensor]
"""``(module, parameter) -> score of every entry``, in the parameter's shape."""


def sensitivity(anatomy: Anatomy, probe: Probe, batches: int) -> dict[tuple[str, str], Tensor]:
    """Sum over minibatches of the squared gradient of the minibatch's mean loss, for every candidate weight.

    Equation: ``s_n = sum_b (dL_b / dw_n)^2``; one small gradient step at ``w_n`` alone lowers the loss by about as
    much.  It is the square of the mean gradient, not the mean of squares of single samples.

    Reference: He et al. 2023, arXiv 2303.08566, equation 5.
    Differs from the authors' code: the model is in evaluation mode (there dropout and drop-path make it noisy).

    Raises:
        UserError: where every gradient is 0 (a head that starts at 0 sends none back), or one is not finite.
    """
    wanted = {(module, key): tensor for module, key, tensor in anatomy.candidates()}
    model = anatomy.model
    flags = [(p, p.requires_grad) for p in model.parameters()]
    training = model.training
    total = {key: torch.zeros_like(tensor, dtype=torch.float32) for key, tensor in wanted.items()}
    try:
        model.eval()
        for tensor in wanted.values():
            tensor.requires_grad_(True)
        for loss in islice(probe(model), batches):
            grads = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
            for key, grad in zip(wanted, grads, strict=True):
                if grad is not None:
                    total[key] += grad.detach().float().square()
    finally:
        model.train(training)
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
    whole = sum(float(score.sum()) for score in total.values())
    if not 0.0 < whole < float("inf"):
        raise UserError(
            f"spt: the sum of all squared gradients is {whole}: draw the head at random before (a head at 0 sends no "
            "gradient back), and check that the probe's losses are finite"
        )
    return total


def random_scores(anatomy: Anatomy) -> dict[tuple[str, str], Tensor]:
    """Uniform noise: the control that asks whether choosing matters."""
    return {(module, key): torch.rand(tensor.shape) for module, key, tensor in anatomy.candidates()}


def magnitude_scores(anatomy: Anatomy) -> dict[tuple[str, str], Tensor]:
    """Absolute weights: the control that looks at no data."""
    return {(module, key): tensor.detach().abs().float() for module, key, tensor in anatomy.candidates()}
