"""Train the embedded text-to-image pipeline of the drawings world.

``python scripts/train_drawer.py --seed 0 --out mmalign/worlds/drawings/base`` makes the shipped one from nothing on one
thread; ``README.json`` beside the weights holds command, plan, figures and processor time.  Checkpoints go to
``--work``; the same command goes on from the last one, and a run that is stopped leaves the pipeline of its last look
at validation prompts in ``--out``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import torch

from mmalign.engine.checkpoint import (
    latest_checkpoint,
    load_checkpoint,
    prune_checkpoints,
    save_checkpoint,
)
from mmalign.rng import numpy_generator
from mmalign.worlds.drawings.model import make_pipeline
from mmalign.worlds.drawings.pipeline import DrawingPipeline
from mmalign.worlds.drawings.prompts import draw_wish
from mmalign.worlds.drawings.ship import ship
from mmalign.worlds.drawings.training import (
    DrawerPlan,
    drawer_loss,
    make_optimizer,
    make_pool,
    pictures_of,
    probe,
    rate,
)


def look(pipeline: DrawingPipeline, n: int) -> dict[str, float]:
    """Figures of ``n`` validation prompts under the template matcher, ten steps, no guidance."""
    rng = numpy_generator(0, "drawer", "validation")
    wanted = [draw_wish("validation", rng) for _ in range(n)]
    return probe(wanted, pictures_of(pipeline, [wish.text for wish in wanted], 0))


def train(plan: DrawerPlan, out: Path, work: Path, every: int) -> None:
    """Train on from the last checkpoint in ``work`` and write the pipeline with its figures."""
    start = time.process_time()
    pipeline = make_pipeline(plan.seed, width=plan.width, layers=plan.layers)
    pool = make_pool(pipeline, plan)
    modules = {"transformer": pipeline.transformer, "text_encoder": pipeline.text_encoder}
    optimizer = make_optimizer(list(modules.values()), plan)
    rates = [group["lr"] for group in optimizer.param_groups]
    state: dict[str, Any] = {"step": 0, "cpu_seconds": 0.0, "loss": 0.0, "curve": []}
    if (found := latest_checkpoint(work)) is not None:
        state = load_checkpoint(found, modules=modules, optimizer=optimizer)
    spent = state["cpu_seconds"]
    record = {
        "command": f"python scripts/train_drawer.py --seed {plan.seed} --steps {plan.steps} --out {out}"
    }
    record |= {"plan": dataclasses.asdict(plan), "curve": state["curve"]}
    while state["step"] < plan.steps:
        for group, lr in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = lr * rate(plan, state["step"])
        optimizer.zero_grad()
        loss = drawer_loss(pipeline, pool, plan, state["step"])
        loss.backward()
        optimizer.step()
        state["step"] += 1
        state["loss"] += max(0.02, 1 / state["step"]) * (loss.item() - state["loss"])
        if state["step"] % every and state["step"] != plan.steps:
            continue
        figures = look(pipeline, 200)
        state["cpu_seconds"] = round(spent + time.process_time() - start, 1)
        state["curve"].append({k: state[k] for k in ("step", "cpu_seconds", "loss")} | figures)
        print(json.dumps(state["curve"][-1]), flush=True)
        save_checkpoint(
            work / f"checkpoint-{state['step']}", modules=modules, optimizer=optimizer, state=state
        )
        prune_checkpoints(work)
        ship(pipeline, out, {**record, "validation": figures})
    figures = look(pipeline, 1000)
    print(json.dumps(figures))
    seconds = round(spent + time.process_time() - start, 1)
    print(ship(pipeline, out, {**record, "validation": figures, "cpu_seconds": seconds}))


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="folder of checkpoints; OUT.work when left out")
    parser.add_argument("--steps", type=int, default=DrawerPlan.steps)
    parser.add_argument("--every", type=int, default=100, help="steps between checkpoints")
    args = parser.parse_args()
    torch.set_num_threads(1)
    plan = DrawerPlan(seed=args.seed, steps=args.steps)
    train(plan, args.out, args.work or args.out.with_name(args.out.name + ".work"), args.every)


if __name__ == "__main__":
    main()
