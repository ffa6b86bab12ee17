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

__all__ = ["FILE", "MEMBERS", "TASKS", "in_another_basis", "pool"]

FILE = "measured.json"
TASKS = ("digits", "roads", "orientation")
MEMBERS = 6
RATES, EPOCHS, DECAYS = (1e-3, 6e-3), (8, 12, 16), (0.0, 1e-4, 1e-2)
"""Bounds of the rates (drawn on a log scale), and what else a member's settings are drawn from."""
LEARNED_STEPS = 25
State = Mapping[str, Tensor]


def pool(ctx: RunContext) -> None:
    """Train every task's pool and write ``measured.json``: means over tasks, and per task ``<task>/<split>/<recipe>``.

    ``best`` is the member with the highest validation accuracy; ``strangers`` are two members one of which has its
    channels in another order, ``strangers_soup`` their mean.
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
    return found | _strangers(model, members[0], members[1], test, seed)


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


def _strangers(
    model: torch.nn.Module, one: State, other: State, test: Examples, seed: int
) -> dict[str, float]:
    """Two members, one of them in a basis of its own: as good as ever, and their mean is a model of nothing."""
    width = one["norm.weight"].numel()
    order = torch.from_numpy(numpy_generator(seed, "claims", "soups", "basis").permutation(width))
    stranger = in_another_basis(other, order)
    return {
        "test/strangers": (accuracy(model, one, test) + accuracy(model, stranger, test)) / 2,
        "test/strangers_soup": accuracy(model, uniform_soup([one, stranger]), test),
    }


def in_another_basis(state: State, order: Tensor) -> dict[str, Tensor]:
    """A timm ViT's weights with the channels of its residual stream in another order: the same function.

    What writes to the stream has its output channels moved, what reads from it its input channels; layer norms do not
    see the order.
    """
    reads = ("qkv.weight", "fc1.weight", "head.weight")
    still = ("qkv.bias", "fc1.bias", "head.bias")
    writes_first = ("patch_embed.proj.weight", "patch_embed.proj.bias", "attn.proj.weight", "attn.proj.bias",
                    "fc2.weight", "fc2.bias")  # fmt: skip
    moved = {}
    for name, value in state.items():
        if name.endswith(still):
            moved[name] = value.clone()
        elif name.endswith(reads) or name in ("cls_token", "pos_embed", "reg_token"):
            moved[name] = value[..., order]
        elif name.endswith(writes_first) or "norm" in name:
            moved[name] = value[order]
        else:
            raise ValueError(f"{name}: not a weight of a plain timm ViT")
    return moved
