"""Task vectors of two tasks merged into one backbone, by every method, scales and shares chosen on validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmalign.benchmarks.claims.merging_measured import accuracy, opened, state_of
from mmalign.data.jsonl import write_json
from mmalign.engine.transfer.fitting import Examples, FitPlan, fit
from mmalign.rng import generator
from mmalign.tuners.merging import breadcrumbs, merge_deltas, task_vector

if TYPE_CHECKING:
    from mmalign.engine.transfer.task import TaskRun
    from mmalign.pipeline.context import RunContext

__all__ = ["FILE", "METHODS", "PAIRS", "merge_tasks", "random_masks"]

FILE = "measured.json"
PAIRS = (("digits", "roads"), ("count", "cells"), ("shape-hue", "texture-frequency"))
"""Tasks that are merged with each other: so small a backbone has no room for more (docs/claims/tuners.md)."""
SCALES = (0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0)
SHARES, TOPS = (0.2, 0.5, 0.8), (0.05, 0.1)
"""Shares of a task vector that are kept, and shares of largest entries that breadcrumbs drops."""
HEAD, TUNE = FitPlan(1e-2, 20), FitPlan(1e-3, 6)
"""How a head is fitted to features of the untouched backbone, and how the backbone is tuned under it."""
State = Mapping[str, Tensor]
Merge = Callable[[State, Sequence[State], int], dict[str, Tensor]]


def random_masks(base: State, tuned: Sequence[State], keep: float, seed: int) -> dict[str, Tensor]:
    """``base`` plus task vectors of which each row keeps as many entries as breadcrumbs does, but any ones."""
    merged = {name: value.clone() for name, value in base.items()}
    for number, state in enumerate(tuned):
        for name, delta in task_vector(state, base).items():
            rng = generator(seed, "claims", "random-masks", number, name)
            wide = delta.shape[-1]
            kept = torch.rand(delta.shape, generator=rng).argsort(-1)[..., : max(1, round(keep * wide))]
            merged[name] += torch.zeros_like(delta).scatter(-1, kept, delta.gather(-1, kept))
    return merged


def _pruned(method: str, share: float) -> Merge:
    return lambda base, tuned, seed: merge_deltas(base, tuned, method, density=share, seed=seed)


METHODS: Mapping[str, tuple[Merge, ...]] = {
    "arithmetic": (lambda base, tuned, seed: merge_deltas(base, tuned),),
    "breadcrumbs": tuple(
        lambda base, tuned, seed, keep=keep, top=top: breadcrumbs(
            base, tuned, keep=keep, drop_top=top, scale=1.0
        )  # type: ignore[misc]
        for keep in SHARES
        for top in TOPS
    ),
    "random": tuple(
        lambda base, tuned, seed, keep=keep: random_masks(base, tuned, keep, seed)  # type: ignore[misc]
        for keep in SHARES
    ),
    "largest": tuple(_pruned("magnitude_prune", share) for share in SHARES),
    "ties": tuple(_pruned("ties", share) for share in SHARES),
    "dare": tuple(_pruned("dare_linear", share) for share in SHARES),
}
"""Method -> what it gives at scale 1 with each of its settings; ``largest`` is breadcrumbs without dropping the top."""


def merge_tasks(ctx: RunContext) -> None:
    """Tune the backbone to every task, merge pair by pair, and write ``measured.json``.

    ``<method>/test`` is the mean accuracy over pairs and their tasks, each task with its own head; ``<method>/scale``
    what validation chose, a mean over pairs.  ``base`` is the untouched backbone, ``mean`` the mean of the task vectors
    without a choice, ``alone`` every task with its own backbone.  ``<pair>/<method>/...`` has each pair.
    """
    found: dict[str, float] = {}
    each = [_merged(ctx, pair) for pair in PAIRS]
    for pair, measured in zip(PAIRS, each, strict=True):
        found |= {f"{'+'.join(pair)}/{name}": value for name, value in measured.items()}
    found |= {name: sum(measured[name] for measured in each) / len(each) for name in each[0]}
    write_json(ctx.run_dir / FILE, found)


def _merged(ctx: RunContext, names: Sequence[str]) -> dict[str, float]:
    """Every method on the task vectors of these tasks."""
    seed, runs = ctx.cfg.seed, opened(ctx, names)
    start = {k: v for k, v in state_of(runs[0].model(seed)).items() if not k.startswith("head.")}
    pairs = [_tuned(seed, run) for run in runs]
    heads, tuned = [head for head, _ in pairs], [body for _, body in pairs]

    def mean_accuracy(bodies: Sequence[State], split: str) -> float:
        scores = [
            accuracy(run.model(seed), {**body, **head}, run.split(split))
            for run, head, body in zip(runs, heads, bodies, strict=True)
        ]
        return sum(scores) / len(scores)

    def shared(state: State, split: str) -> float:
        return mean_accuracy([state] * len(runs), split)

    mean = merge_deltas(start, tuned, weights=[1 / len(tuned)] * len(tuned))
    found = {
        "base/test": shared(start, "test"),
        "mean/test": shared(mean, "test"),
        "alone/test": mean_accuracy(tuned, "test"),
    }
    for name, settings in METHODS.items():
        tried = {}
        for number, merge in enumerate(settings):
            step = task_vector(merge(start, tuned, seed), start)
            for scale in SCALES:
                moved = {k: v + scale * step[k] if k in step else v for k, v in start.items()}
                tried[(scale, number)] = (shared(moved, "val"), moved)
        best = max(tried, key=lambda key: (tried[key][0], -key[0], -key[1]))
        found |= {
            f"{name}/val": tried[best][0],
            f"{name}/test": shared(tried[best][1], "test"),
            f"{name}/scale": best[0],
            f"{name}/setting": float(best[1]),
        }
    return found


def _tuned(seed: int, run: TaskRun) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A head fitted to the untouched backbone's features, and the backbone tuned while that head stays."""
    train, model = run.split("train"), run.model(seed)
    head = model.get_submodule("head")
    fit(head, Examples(_features(model, train.x), train.y), _plan(HEAD, seed, run, "head"))
    head.requires_grad_(False)
    fit(model, train, _plan(TUNE, seed, run, "tune"))
    state = state_of(model)
    parts = ({}, {})  # type: tuple[dict[str, Tensor], dict[str, Tensor]]
    for name, value in state.items():
        parts[0 if name.startswith("head.") else 1][name] = value
    return parts


def _plan(plan: FitPlan, seed: int, run: TaskRun, part: str) -> FitPlan:
    return FitPlan(
        plan.learning_rate,
        plan.epochs,
        seed=seed,
        stream=("claims", "breadcrumbs", run.task.name, part),
    )


@torch.no_grad()
def _features(model: nn.Module, x: Tensor) -> Tensor:
    """What the head reads, ``[N, D]``."""
    body: Any = model.eval()
    parts = [body.forward_head(body.forward_features(part), pre_logits=True) for part in x.split(250)]
    return torch.cat(parts)
