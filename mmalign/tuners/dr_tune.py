"""DR-Tune: full fine-tuning whose head must also classify the pretrained model's features, brought up to date."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmalign.errors import UserError
from mmalign.rng import generator

__all__ = [
    "CALIBRATIONS",
    "DRTune",
    "FeatureQueue",
    "calibrated",
    "dealt_out",
    "dr_tune_loss",
    "head_inputs",
    "procrustes",
    "uncalibrated",
]

Calibration = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""``(current, pretrained, labels, head) -> features [N, D]`` that the head must classify beside the batch."""


class FeatureQueue(nn.Module):
    """The last ``size`` features of the model in training and of the pretrained one, with labels; part of a checkpoint.

    Args:
        size: features kept; 2048 in the paper.
        dim: of a feature.
    """

    current: Tensor
    pretrained: Tensor
    labels: Tensor
    written: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("current", torch.zeros(size, dim))
        self.register_buffer("pretrained", torch.zeros(size, dim))
        self.register_buffer("labels", torch.zeros(size, dtype=torch.long))
        self.register_buffer("written", torch.zeros((), dtype=torch.long))

    def __len__(self) -> int:
        return min(int(self.written), len(self.labels))

    @torch.no_grad()
    def push(self, current: Tensor, pretrained: Tensor, labels: Tensor) -> None:
        """Write ``[B, D]`` features and ``[B]`` labels over the oldest; any batch size up to the queue's.

        Raises:
            UserError: for a batch larger than the queue.
        """
        size = len(self.labels)
        if len(labels) > size:
            raise UserError(f"dr-tune: a batch of {len(labels)} does not fit a queue of {size}")
        places = (int(self.written) + torch.arange(len(labels), device=self.labels.device)) % size
        self.current[places] = current.detach().to(self.current.dtype)
        self.pretrained[places] = pretrained.detach().to(self.pretrained.dtype)
        self.labels[places] = labels
        self.written += len(labels)

    def filled(self) -> tuple[Tensor, Tensor, Tensor]:
        """What has been written: ``(current, pretrained, labels)``."""
        n = len(self)
        return self.current[:n], self.pretrained[:n], self.labels[:n]


def procrustes(source: Tensor, target: Tensor) -> Tensor:
    """The rotation ``R`` (determinant +1) with the smallest ``|source R^T - target|``, ``[D, D]``.

    Reference: Kabsch 1976.

    Args:
        source: ``[N, D]``, centred.
        target: ``[N, D]``, centred.
    """
    u, _, v = torch.linalg.svd(target.T @ source)
    sign = torch.ones(len(u), dtype=u.dtype, device=u.device)
    sign[-1] = torch.sign(torch.linalg.det(u @ v))
    return (u * sign) @ v


@torch.no_grad()
def calibrated(current: Tensor, pretrained: Tensor, labels: Tensor, head: Tensor) -> Tensor:
    """Pretrained features turned and shifted to where the model in training has them, ``[N, D]``; without gradient.

    Equation: on unit vectors ``R (z0 - mean z0) + mean z``, then per class the shift from its centre to the centre of
    ``z``, each ``z`` weighted by ``softmax_c cos(z, head_c)``; back on the sphere, times the mean norm of ``z``.

    Reference: Zhou et al. 2023, arXiv 2308.12058 (DR-Tune), section 3.3.
    Differs from the authors' code: the rotation is found at every call (there at every tenth, and not used between).

    Args:
        current: ``z`` of the queue, ``[N, D]``.
        pretrained: ``z0`` of the queue, ``[N, D]``.
        labels: ``[N]``.
        head: weight of the linear head, ``[C, D]``.
    """
    z, z0 = F.normalize(current, dim=1), F.normalize(pretrained, dim=1)
    mean, mean0 = z.mean(0), z0.mean(0)
    rotation = procrustes(z0 - mean0, z - mean)
    turned = (z0 - mean0) @ rotation.T + mean
    closeness = z @ F.normalize(head, dim=1).T
    for c in labels.unique().tolist():
        of_class = labels == c
        weights = closeness[of_class, c].softmax(0)
        turned[of_class] += weights @ z[of_class] - turned[of_class].mean(0)
    return F.normalize(turned, dim=1) * current.norm(dim=1).mean()


def uncalibrated(current: Tensor, pretrained: Tensor, labels: Tensor, head: Tensor) -> Tensor:
    """Pretrained features as they are: the control without semantic calibration."""
    return pretrained


def dealt_out(current: Tensor, pretrained: Tensor, labels: Tensor, head: Tensor) -> Tensor:
    """Calibrated features, each under the label of its neighbour in the queue: the control that they say nothing."""
    return calibrated(current, pretrained, labels, head).roll(1, 0)


CALIBRATIONS: Mapping[str, Calibration] = {
    "rotated": calibrated,
    "none": uncalibrated,
    "shuffled": dealt_out,
}
"""How pretrained features are brought up to date, by name."""


def dr_tune_loss(
    head: nn.Linear,
    z: Tensor,
    labels: Tensor,
    queue: FeatureQueue,
    calibrate: Calibration = calibrated,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy of the head over the batch and the calibrated queue together.

    Equation: ``mean CE(h([z; R z0]), [y; y0])`` over ``B + K`` rows.  An empty queue is plain fine-tuning.

    Reference: Zhou et al. 2023, arXiv 2308.12058, equation 3.

    Args:
        head: the linear head that trains.
        z: features of the batch ``[B, D]``, with gradient.
        labels: ``[B]``.
        queue: of earlier features; gets no gradient.
        calibrate: how old features are brought up to date.

    Returns:
        The loss, and ``task`` and ``queue`` cross-entropies apart.
    """
    task = F.cross_entropy(head(z), labels, reduction="none")
    if len(queue) == 0:
        return task.mean(), {"task": task.mean().detach()}
    current, pretrained, old = queue.filled()
    moved = calibrate(current, pretrained, old, head.weight.detach())
    held = F.cross_entropy(head(moved), old, reduction="none")
    return torch.cat([task, held]).mean(), {"task": task.mean().detach(), "queue": held.mean().detach()}


@torch.no_grad()
def head_inputs(model: nn.Module, head: nn.Module, x: Tensor, batch_size: int = 250) -> Tensor:
    """What ``head``, a layer of ``model``, reads of the inputs ``x`` in evaluation mode, ``[N, D]``."""
    found: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda layer, args: found.append(args[0].clone()))
    training = model.training
    model.eval()
    for start in range(0, len(x), batch_size):
        model(x[start : start + batch_size])
    model.train(training)
    handle.remove()
    return torch.cat(found)


class DRTune:
    """The objective of DR-Tune for a model with a linear head and a training set in memory.

    Features are what the head reads.  Those of the pretrained model are computed once, as the inputs are never
    augmented; the queue starts full of them.  Called with ``(model, x, y, index)`` it returns the loss.

    Reference: Zhou et al. 2023, arXiv 2308.12058.
    Differs from the authors' code: no augmentation, so a picture's pretrained feature is a constant.

    Args:
        model: before any step; is the pretrained model.
        head: the name of its linear head.
        x: training inputs ``[N, ...]``.
        y: labels ``[N]``.
        size: of the queue.
        calibrate: how old features are brought up to date.
        seed: draws which features the queue starts with.

    Raises:
        UserError: for labels per pixel, or a head that is not linear.
    """

    def __init__(
        self,
        model: nn.Module,
        head: str,
        x: Tensor,
        y: Tensor,
        size: int,
        calibrate: Calibration = calibrated,
        *,
        seed: int = 0,
    ) -> None:
        found = model.get_submodule(head)
        if not isinstance(found, nn.Linear) or y.ndim != 1:
            raise UserError("dr-tune: needs one label per example and a linear head")
        self._head, self._calibrate = found, calibrate
        self._seen: Tensor | None = None
        self._waiting: tuple[Tensor, Tensor, Tensor] | None = None
        found.register_forward_pre_hook(self._see)
        self._pretrained = head_inputs(model, found, x)
        self.queue = FeatureQueue(size, self._pretrained.shape[1])
        first = torch.randperm(len(y), generator=generator(seed, "dr-tune"))[:size]
        self.queue.push(self._pretrained[first], self._pretrained[first], y[first])

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, index: Tensor) -> Tensor:
        """Mean cross-entropy over the batch and the queue, which the batch enters at the next call."""
        if self._waiting is not None:  # not earlier: the backward pass still reads the queue
            self.queue.push(*self._waiting)
        model(x)
        assert self._seen is not None
        z = self._seen
        loss, _ = dr_tune_loss(self._head, z, y, self.queue, self._calibrate)
        self._waiting = (z.detach(), self._pretrained[index], y)
        return loss

    def _see(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._seen = args[0]
