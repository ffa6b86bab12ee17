"""One task by the protocol: the rate on validation, training on both parts, the test once."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from peft import PeftModel
from torch import Tensor, nn

from mmalign.config.transfer import TransferConfig
from mmalign.engine.atomic import write_folder
from mmalign.engine.transfer.fitting import Examples, FitPlan, FitResult, fit, score, stacked
from mmalign.engine.transfer.memory import saved_bytes
from mmalign.engine.transfer.prepare import PixelOutputs, Prepared, prepare
from mmalign.errors import UserError
from mmalign.protocols import TransferSuite, TransferTask
from mmalign.tuners.backbones import load_backbone, normalisation
from mmalign.tuners.dr_tune import head_inputs

__all__ = ["TaskResult", "TaskRun", "choose_rate", "fit_task", "fitted"]

_READ: dict[tuple[str, ...], Examples] = {}
"""Splits read in this process, for the next run of it on the same suite (the arms of a claim)."""
_READ_BYTES = 512 * 2**20


@dataclass(frozen=True)
class TaskResult:
    """What is known of a task when it is done.

    Args:
        task: its name.
        group: its group.
        accuracy: on the test split: top-1, or mean intersection over union of pixels.
        learning_rate: that was used.
        validation: accuracy per rate tried, by the rate as text; empty where nothing was chosen.
        losses: mean training loss per epoch of the last fit.
        trainable: numbers that train without the head.
        head: numbers of the head.
        saved_bytes: activations of one batch that are kept for the backward pass.
        cpu_seconds: of the last fit.
        n_test: test examples.
    """

    task: str
    group: str
    accuracy: float
    learning_rate: float
    validation: Mapping[str, float]
    losses: Sequence[float]
    trainable: int
    head: int
    saved_bytes: int
    cpu_seconds: float
    n_test: int


@dataclass
class TaskRun:
    """A task with its splits in memory, normalised as the backbone wants them; the test is read when asked for."""

    cfg: TransferConfig
    suite: TransferSuite
    task: TransferTask
    backbone: str
    _splits: dict[str, Examples] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, cfg: TransferConfig, suite: TransferSuite, task: TransferTask) -> TaskRun:
        """A task of a suite under a configuration."""
        return cls(cfg, suite, task, cfg.backbone or suite.backbone)

    def split(self, name: str) -> Examples:
        """One of ``train``, ``val``, ``test``."""
        if name not in self._splits:
            key = (self.cfg.suite, json.dumps(self.cfg.suite_options, sort_keys=True), self.task.name, name)
            read = _READ.get(key)
            if read is None:
                read = stacked(self.suite.data(self.task, name))
                if sum(held.x.nbytes for held in _READ.values()) + read.x.nbytes <= _READ_BYTES:
                    _READ[key] = read
            mean, std = self._norm
            self._splits[name] = Examples((read.x - mean) / std, read.y)
        return self._splits[name]

    @cached_property
    def _norm(self) -> tuple[Tensor, Tensor]:
        return normalisation(self.model(0))

    def model(self, seed: int) -> nn.Module:
        """The backbone with a new head."""
        return load_backbone(self.backbone, self.task.n_classes, seed=seed)

    def plan(self, rate: float, seed: int) -> FitPlan:
        """How a fit runs."""
        cfg = self.cfg
        return FitPlan(
            rate,
            cfg.epochs,
            cfg.batch_size,
            cfg.weight_decay,
            cfg.warmup_ratio,
            seed,
            ("transfer", self.task.name),
        )


def fitted(run: TaskRun, data: Examples, rate: float, seed: int) -> tuple[Prepared, FitResult]:
    """A new model, prepared and fitted to ``data``; where the head trains alone, on features computed once."""
    ready = prepare(run.model(seed), run.cfg, data, learning_rate=rate, seed=seed)
    if ready.alone is not None:
        began = time.process_time()
        features = Examples(head_inputs(ready.model, ready.alone, data.x), data.y)
        done = fit(ready.alone, features, run.plan(rate, seed))
        return ready, replace(done, cpu_seconds=time.process_time() - began)
    return ready, fit(ready.model, data, run.plan(rate, seed), objective=ready.objective, groups=ready.groups)


def choose_rate(run: TaskRun, seed: int) -> tuple[float, dict[str, float]]:
    """The rate that is best on validation after training on the training part alone (the lower one of equals).

    Returns:
        The rate, and the accuracy of every rate by its text.
    """
    tried = {}
    for rate in sorted(run.cfg.learning_rates):
        ready, _ = fitted(run, run.split("train"), rate, seed)
        tried[rate] = score(ready.model, run.split("val"), run.task.n_classes)
    return max(tried, key=lambda rate: tried[rate]), {f"{rate:g}": found for rate, found in tried.items()}


def fit_task(
    run: TaskRun, rate: float, validation: Mapping[str, float], seed: int, save: Path | None = None
) -> TaskResult:
    """Train on training and validation examples together at a chosen rate, and look at the test once.

    Args:
        run: the task.
        rate: the learning rate.
        validation: what was tried before, for the record.
        seed: draws head, order and whatever starts random.
        save: where the weights go.

    Raises:
        UserError: when the loss is not finite.
    """
    data = run.split("train").joined(run.split("val"))
    ready, done = fitted(run, data, rate, seed)
    if not done.is_finite:
        raise UserError(
            f"transfer: task {run.task.name}: the loss is not finite at a learning rate of {rate:g}"
        )
    test = run.split("test")
    accuracy = score(ready.model, test, run.task.n_classes)
    ready.model.train()
    kept = saved_bytes(ready.model, data.x[: run.cfg.batch_size])
    ready.model.eval()
    if save is not None:
        write_folder(save, lambda folder: _save(ready.model, folder))
    task = run.task
    return TaskResult(
        task.name,
        task.group,
        accuracy,
        rate,
        dict(validation),
        list(done.losses),
        ready.trainable,
        ready.head,
        kept,
        round(done.cpu_seconds, 3),
        len(test),
    )


def _save(model: nn.Module, folder: Path) -> None:
    """An adapter as peft saves it, with the new head; another model as one safetensors file of all its weights."""
    inner = model.model if isinstance(model, PixelOutputs) else model
    if isinstance(inner, PeftModel):
        inner.save_pretrained(str(folder))
        return
    from safetensors.torch import save_file

    state = {name: value.detach().contiguous() for name, value in inner.state_dict().items()}
    save_file(state, folder / "model.safetensors")
