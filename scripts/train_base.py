"""Train an embedded starting model of the scenes world.

``python scripts/train_base.py --seed 0 --out mmalign/worlds/scenes/base`` makes the first shipped one from
nothing, ``--seed 1 --out mmalign/worlds/scenes/base1`` the second, each on one thread in about 20 minutes of
processor time; ``README.json`` beside each base holds its command, plan and figures.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path

import torch
from transformers import LlavaForConditionalGeneration

from mmalign.worlds.scenes.corpus import PretrainPlan, make_pool
from mmalign.worlds.scenes.model import make_model
from mmalign.worlds.scenes.pretrain import train_language, train_vision
from mmalign.worlds.scenes.probe import probe
from mmalign.worlds.scenes.ship import ship


def main() -> None:
    """Run both phases, save checkpoints on the way and write the base with its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=PretrainPlan.scenes)
    parser.add_argument("--vision-steps", type=int, default=PretrainPlan.vision_steps)
    parser.add_argument("--language-steps", type=int, default=PretrainPlan.language_steps)
    parser.add_argument("--lr", type=float, default=PretrainPlan.lr)
    parser.add_argument(
        "--mix", type=float, nargs=3, default=PretrainPlan.mix, help="noisy, clean, questions"
    )
    parser.add_argument("--start", help="folder of a model to go on from; the vision phase is skipped")
    parser.add_argument("--probe-every", type=int, default=500)
    parser.add_argument("--interim", type=Path, help="folder that receives the model at every probe")
    args = parser.parse_args()
    torch.set_num_threads(1)
    plan = PretrainPlan(
        seed=args.seed,
        scenes=args.scenes,
        vision_steps=args.vision_steps,
        language_steps=args.language_steps,
        lr=args.lr,
        mix=tuple(args.mix),
    )
    start, cpu = time.time(), time.process_time()

    def log(text: str) -> None:
        print(f"[{time.time() - start:6.0f} s] {text}", flush=True)

    model = LlavaForConditionalGeneration.from_pretrained(args.start) if args.start else make_model(plan.seed)
    model.train()
    log(f"{sum(p.numel() for p in model.parameters())} parameters")
    pool = make_pool(plan.scenes, plan.seed)
    log(f"{len(pool.scenes)} scenes")
    vision = {} if args.start else train_vision(model, pool, plan, log)
    log(f"vision accuracy {vision}")

    def after(step: int) -> None:
        if step % args.probe_every:
            return
        log(json.dumps(probe(model, n=150)))
        if args.interim:
            staging = args.interim.with_name(args.interim.name + ".new")
            ship(model, staging, {"interim": step}, half=False)
            for file in staging.iterdir():
                args.interim.mkdir(parents=True, exist_ok=True)
                os.replace(file, args.interim / file.name)

    train_language(model, pool, plan, log, after)
    figures = probe(model, n=500)
    log(json.dumps(figures))
    record = {
        "command": f"python scripts/train_base.py --seed {args.seed} --out {args.out}",
        "plan": dataclasses.asdict(plan),
        "vision_accuracy": vision,
        "validation": figures,
        "cpu_seconds": round(time.process_time() - cpu),
    }
    print(ship(model, args.out, record))


if __name__ == "__main__":
    main()
