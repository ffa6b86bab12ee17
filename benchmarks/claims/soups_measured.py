"""The pool of the claim about soups: fine-tuned models of one task from one start, and ways to make one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from mmalign.benchmarks.claims.merging_measured import accuracy, opened, shifted, state_of
from mmalign.data.jsonl import write_json
from mmalign.engine.transfer.fitting import Examples, FitPlan, fit
from mmalign.rng import derive_seed, numpy_generator
from mmalign.tuners.merging import greedy_soup, learned_soup, uniform_soup

if TYPE_CHECKING:
    from mmalign.engine.transfer.task import TaskRun
    from mmalign.pipeline.context import RunContext

__all__ = ["FILE", "MEMBERS", "TASKS", "pool"]

FILE = "measured.json"
TASKS = ("digits", "roads", "orientation")
MEMBERS, STRANGERS = 6, 2
STRANGER_EPOCHS = 6
RATES, EPOCHS, DECAYS = (3e-4, 3e-3), (4, 6, 8), (0.0, 1e-4, 1e-2)
"""Bounds of the rates (drawn on a log scale), and what else a member's settings are drawn from."""
LEARNED_STEPS = 25
State = Mapping[str, Tensor]


def pool(ctx: RunContext) -> None:
    """Train every task's pool and write ``measured.json``: means over tasks, and per task ``<task>/<split>/<recipe>``.

    ``best`` is the member with the highest validation accuracy; ``strangers`` are two models trained from random
    weights of their own, ``strangers_soup`` their mean.
    """
    rows = {run.task.name: _one(ctx.cfg.seed, run) for run in opened(ctx, TASKS)}
    keys = next(iter(rows.values()))
    means = {key: sum(row[key] for row in rows.values()) / len(rows) for key in keys}
    write_json(
        ctx.run_dir / FILE,
        means | {f"{task}/{key}": value for task, row in rows.items() for key, value in row.items()},
    )


def _one(seed: int, run: TaskRun) -> dict[str, float]:
    train, val, test = (run.split(name) for name in ("train", "val", "test"))
    model = run.model(seed)
    start = state_of(model)
    members = [_member(seed, run, start, k, train) for k in range(MEMBERS)]
    scores = [accuracy(model, member, val) for member in members]
    greedy, chosen, greedy_val = greedy_soup(members, lambda state: accuracy(model, state, val))
    learned, _ = learned_soup(
        members, lambda state, beta: _loss(model, state, beta, val), steps=LEARNED_STEPS
    )
    best = members[max(range(MEMBERS), key=lambda k: (scores[k], -k))]
    soups = {"best": best, "uniform": uniform_soup(members), "greedy": greedy, "learned": learned}
    found = {"val/best": max(scores), "val/greedy": greedy_val, "ingredients": float(len(chosen))}
    for split, data in (("test", test), ("shift", shifted(test, model, derive_seed(seed, run.task.name)))):
        found |= {f"{split}/{name}": accuracy(model, state, data) for name, state in soups.items()}
        found[f"{split}/ensemble"] = _ensemble(model, members, data)
        found[f"{split}/member"] = sum(accuracy(model, member, data) for member in members) / MEMBERS
    return found | _strangers(seed, run, train, test)


def _member(seed: int, run: TaskRun, start: State, k: int, train: Examples) -> dict[str, Tensor]:
    rng = numpy_generator(seed, "claims", "soups", run.task.name, k)
    low, high = RATES
    plan = FitPlan(
        learning_rate=low * float(high / low) ** float(rng.random()),
        epochs=int(rng.choice(EPOCHS)),
        weight_decay=float(rng.choice(DECAYS)),
        seed=seed,
        stream=("claims", "soups", run.task.name, str(k)),
    )
    model = run.model(seed)
    model.load_state_dict(dict(start))
    fit(model, train, plan)
    return state_of(model)


def _loss(model: torch.nn.Module, state: State, beta: Tensor, data: Examples) -> Tensor:
    logits: Tensor = torch.func.functional_call(model, dict(state), (data.x,))
    return F.cross_entropy(beta * logits, data.y)


@torch.no_grad()
def _ensemble(model: torch.nn.Module, members: list[dict[str, Tensor]], data: Examples) -> float:
    """Accuracy of the mean of the members' probabilities."""
    total = torch.zeros(())
    for member in members:
        model.load_state_dict(member)
        total = total + torch.cat([model(part).softmax(1) for part in data.x.split(250)])
    return float((total.argmax(1) == data.y).double().mean())


def _strangers(seed: int, run: TaskRun, train: Examples, test: Examples) -> dict[str, float]:
    """Models that share no start: their mean is a model of nothing."""
    states = []
    for k in range(STRANGERS):
        model = run.model(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "claims", "soups", "stranger", k))
            model.apply(_redraw)
        fit(
            model,
            train,
            FitPlan(1e-3, STRANGER_EPOCHS, seed=seed, stream=("claims", "soups", "stranger", str(k))),
        )
        states.append(state_of(model))
    model = run.model(seed)
    return {
        "test/strangers": sum(accuracy(model, state, test) for state in states) / STRANGERS,
        "test/strangers_soup": accuracy(model, uniform_soup(states), test),
    }


def _redraw(module: torch.nn.Module) -> None:
    if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
        torch.nn.init.trunc_normal_(module.weight, std=0.05)
        if module.bias is not None:
            torch.nn.init.zeros_(module.bias)
