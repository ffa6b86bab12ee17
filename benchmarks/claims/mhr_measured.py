"""What the claim about shared skills measures: one adapter for several tasks, then a new task from a few pictures."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn import functional as F

from mmalign.benchmarks.claims.merging_measured import opened
from mmalign.data.jsonl import write_json
from mmalign.engine.transfer.fitting import Examples, FitPlan, Objective, fit, score
from mmalign.rng import derive_seed
from mmalign.tuners import attach, trainable_count
from mmalign.tuners.family.skills import for_tasks, mean_skill, router_only

if TYPE_CHECKING:
    from mmalign.engine.transfer.task import TaskRun
    from mmalign.pipeline.context import RunContext

__all__ = ["FILE", "METHODS", "NEW", "SHOTS", "Joint", "multitask"]

FILE = "measured.json"
TOGETHER = ("digits", "shape-hue", "cells", "land-cover", "count", "x-location")
"""Learnt together, two of each group."""
NEW = ("digit-parity", "shape", "roads", "lesions", "arena", "orientation")
"""New tasks, two of each group; each is learnt from ``SHOTS`` pictures."""
SHOTS = 64
RANK, SKILLS, SPLITS = 2, 4, 4
RATES = (3e-3, 1e-2)
EPOCHS, FEW_EPOCHS, BATCH = 4, 20, 32
METHODS = ("alone", "shared", "poly", "mhr", "mhr_z", "mhr_mu")
"""A new LoRA; one LoRA that all tasks shared; Poly; MHR; of MHR the routing alone; the mean of MHR's skills as LoRA."""
_TUNERS: dict[str, tuple[str, dict[str, Any]]] = {
    "shared": ("lora", {"r": RANK * SKILLS + 1, "alpha": RANK * SKILLS + 1}),
    "poly": ("poly", {"r": RANK, "skills": SKILLS, "splits": 1}),
    "mhr": ("poly", {"r": RANK, "skills": SKILLS, "splits": SPLITS}),
}


class Joint(nn.Module):
    """A tuned backbone with a head per task.

    Args:
        tuned: gives features ``[B, D]``; with skills it is told which task each row is of.
        heads: a linear head per task.
        skilled: whether it carries skills.
    """

    def __init__(self, tuned: PeftModel, heads: Sequence[nn.Linear], *, skilled: bool) -> None:
        super().__init__()
        self.tuned, self.heads, self.skilled = tuned, nn.ModuleList(heads), skilled
        self.task = 0
        """The task that :meth:`forward` answers."""

    def features(self, x: Tensor, tasks: Tensor) -> Tensor:
        """Features of rows ``[B, ...]`` of ``tasks [B]``."""
        with for_tasks(self.tuned, tasks) if self.skilled else nullcontext():
            out: Tensor = self.tuned(x)
        return out

    def loss(self, x: Tensor, y: Tensor, tasks: Tensor) -> Tensor:
        """Mean cross-entropy over rows, each under its own task's head."""
        features = self.features(x, tasks)
        each = [
            F.cross_entropy(self.heads[task](features[tasks == task]), y[tasks == task], reduction="sum")
            for task in tasks.unique().tolist()
        ]
        return torch.stack(each).sum() / len(y)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the task in ``task``."""
        out: Tensor = self.heads[self.task](self.features(x, torch.full((len(x),), self.task)))
        return out


def multitask(ctx: RunContext) -> None:
    """Train every method on ``TOGETHER``, move it to each of ``NEW``, and write ``measured.json``.

    Keys: ``<method>/task/<task>`` and ``<method>/mean`` (test accuracy), ``<method>/together`` (validation accuracy
    of the tasks learnt together), ``<method>/trained`` (numbers that learn together), ``<method>/few`` (numbers that
    learn the new task, head left out).
    """
    together, new = opened(ctx, TOGETHER), opened(ctx, NEW)
    seed = ctx.cfg.seed
    found: dict[str, float] = {}
    models: dict[str, Joint | None] = {"alone": None}
    for name in _TUNERS:
        models[name], facts = _together(name, together, len(new), seed)
        found |= {f"{name}/{key}": value for key, value in facts.items()}
    models |= {"mhr_z": models["mhr"], "mhr_mu": models["mhr"]}
    for name in METHODS:
        for number, run in enumerate(new):
            accuracy, count = _few(name, models[name], len(together) + number, run, seed)
            found |= {f"{name}/task/{run.task.name}": accuracy, f"{name}/few": float(count)}
        found[f"{name}/mean"] = sum(found[f"{name}/task/{run.task.name}"] for run in new) / len(new)
    write_json(ctx.run_dir / FILE, found)


def _objective(tasks: Tensor) -> Objective:
    """The joint loss, where ``tasks`` says which task each example is of."""

    def loss(model: Any, x: Tensor, y: Tensor, index: Tensor) -> Tensor:
        found: Tensor = model.loss(x, y, tasks[index])
        return found

    return loss


def _together(name: str, runs: Sequence[TaskRun], new: int, seed: int) -> tuple[Joint, dict[str, float]]:
    """The method trained on all tasks, at the rate that is better on their validation pictures."""
    splits = [run.split("train") for run in runs]
    x, y = (torch.cat([getattr(part, key) for part in splits]) for key in ("x", "y"))
    tasks = torch.cat([torch.full((len(part),), k) for k, part in enumerate(splits)])
    best: tuple[float, Joint] | None = None
    for rate in RATES:
        model = _joint(name, runs, new, seed)
        plan = FitPlan(rate, EPOCHS, 50, seed=seed, stream=("claims", "mhr", name))
        fit(model, Examples(x, y), plan, objective=_objective(tasks))
        scores = []
        for k, run in enumerate(runs):
            model.task = k
            scores.append(score(model, run.split("val"), run.task.n_classes))
        mean = sum(scores) / len(scores)
        if best is None or mean > best[0]:
            best = (mean, model)
    assert best is not None
    return best[1], {"together": best[0], "trained": float(trainable_count(best[1].tuned))}


def _joint(name: str, runs: Sequence[TaskRun], new: int, seed: int) -> Joint:
    tuner, options = _TUNERS[name]
    more = {"tasks": len(runs) + new} if tuner == "poly" else {}
    bare = _bare(runs[0], seed)
    tuned = attach(bare, tuner, {**options, **more}, seed=seed)
    return Joint(tuned, [_head(run, seed) for run in runs], skilled=tuner == "poly")


def _few(name: str, source: Joint | None, place: int, run: TaskRun, seed: int) -> tuple[float, int]:
    """Test accuracy on a new task after ``SHOTS`` pictures, the rate chosen on validation; and what was trained."""
    train = run.split("train")
    shots = Examples(train.x[:SHOTS], train.y[:SHOTS])
    best: tuple[float, Joint] | None = None
    for rate in RATES:
        model = _moved(name, source, place, run, seed)
        plan = FitPlan(rate, FEW_EPOCHS, BATCH, seed=seed, stream=("claims", "mhr", "few", run.task.name))
        tasks = torch.full((SHOTS,), place)
        fit(model, shots, plan, objective=_objective(tasks))
        found = score(model, run.split("val"), run.task.n_classes)
        if best is None or found > best[0]:
            best = (found, model)
    assert best is not None
    return score(best[1], run.split("test"), run.task.n_classes), trainable_count(best[1].tuned)


def _moved(name: str, source: Joint | None, place: int, run: TaskRun, seed: int) -> Joint:
    """The method as it starts on a new task: a new head at ``place``, and what it learnt before."""
    if source is None:
        options = _TUNERS["shared"][1]
        tuned, skilled = attach(_bare(run, seed), "lora", options, seed=seed), False
    elif name == "mhr_mu":
        tuned, skilled = mean_skill(source.tuned, _bare(run, seed)), False
    else:
        tuned, skilled = copy.deepcopy(source.tuned), source.skilled
        if name == "mhr_z":
            router_only(tuned)
    unused = [nn.Linear(1, 1).requires_grad_(False) for _ in range(place)]
    model = Joint(tuned, [*unused, _head(run, seed)], skilled=skilled)
    model.task = place
    return model


def _bare(run: TaskRun, seed: int) -> nn.Module:
    """The backbone that gives features."""
    model: Any = run.model(seed)
    model.reset_classifier(0)
    return model  # type: ignore[no-any-return]


def _head(run: TaskRun, seed: int) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "claims", "mhr", "head", run.task.name))
        wide = run.model(seed).get_classifier().in_features  # type: ignore[operator]
        head = nn.Linear(wide, run.task.n_classes)
        nn.init.trunc_normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)
    return head
