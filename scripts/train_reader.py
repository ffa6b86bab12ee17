"""Train the scenes world's reader: the start of reward models that read facts in their prompt.

``python scripts/train_reader.py --out mmalign/worlds/scenes/reader`` makes the shipped one from the first embedded
base in about five minutes of processor time.  The base was never shown text it should believe; a web-scale model has
learned to read long before it becomes a reward model.  The reader learns to write true captions of pictures that are
blank, blurred or clear, three quarters of the time with true facts in the prompt.  It sees training scenes only, and
neither preferences nor labels.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch

from mmalign.engine.freeze import freeze
from mmalign.engine.loop import LoopState
from mmalign.engine.offline import OfflineTrainer, sft_objective
from mmalign.engine.optim import make_optimizer
from mmalign.modalities.vision import VisionAdapter
from mmalign.objectives.sft import nll_loss
from mmalign.rewards.factual.facts import Facts
from mmalign.rewards.preference.view import View
from mmalign.rng import numpy_generator
from mmalign.types import Row
from mmalign.worlds.scenes import BASES, rows
from mmalign.worlds.scenes.ship import ship

SCALES = ((0.0, 0.5), (0.125, 0.25), (1.0, 0.25))
"""Resolution of the pictures and how often it is shown."""
WITH_FACTS = 0.75


def reading_rows(
    adapter: VisionAdapter, n: int, seed: int, split: str, fixed: tuple[bool, float] | None = None
) -> list[Row]:
    """True captions to write, the picture dimmed at random and facts in the prompt, or both as ``fixed`` says."""
    made = []
    for row in rows(split, n, seed, "caption_clean"):
        rng = numpy_generator(seed, "reading", row.id)
        scales, shares = zip(*SCALES, strict=True)
        drawn = (bool(rng.random() < WITH_FACTS), float(rng.choice(scales, p=shares)))
        told, scale = fixed or drawn
        view = View(adapter, scale, Facts() if told else None)
        made.append(replace(view(row), meta={}))
    return made


def main() -> None:
    """Train, print the held-out likelihood with and without facts, and write the model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=4242)
    args = parser.parse_args()
    torch.set_num_threads(1)
    began, adapter = time.process_time(), VisionAdapter()
    model = adapter.load(str(BASES[args.base]))
    freeze(model, ["*vision_tower*"])
    data = reading_rows(adapter, 6000, args.seed, "train")
    state = LoopState(
        {"reader": model}, make_optimizer({"reader": model.parameters()}, {"reader": args.lr}, 0.01)
    )
    trainer = OfflineTrainer(
        loss_fn=sft_objective(adapter, model), items=data, state=state, name="reader", seed=args.seed,
        max_steps=args.steps, batch_size=args.batch, micro_batch_size=args.batch, warmup_ratio=0.05,
    )  # fmt: skip
    for step in range(1, args.steps + 1):
        metrics = trainer.step(step)
        if step % 50 == 0 or step == args.steps:
            print(step, {k: round(v, 3) for k, v in metrics.items()}, flush=True)
    held = {
        f"{'facts' if told else 'no facts'}, scale {scale:g}": heldout(adapter, model, told, scale)
        for told in (True, False)
        for scale, _ in SCALES
    }
    spent = round(time.process_time() - began)
    print(held, spent, "CPU seconds")
    command = f"python scripts/train_reader.py --base {args.base} --seed {args.seed} --out {args.out}"
    record = {
        "command": command,
        "steps": args.steps,
        "batch": args.batch,
        "lr": args.lr,
        "heldout_nll": held,
    }
    ship(model, args.out, {**record, "cpu_seconds": spent})  # type: ignore[arg-type]


@torch.no_grad()
def heldout(adapter: VisionAdapter, model: torch.nn.Module, told: bool, scale: float) -> float:
    """Nats per word of true captions of 192 validation scenes."""
    scored = adapter.logp(model, adapter.collate(reading_rows(adapter, 192, 7, "validation", (told, scale))))
    return round(float(nll_loss(scored.values, scored.mask)), 4)


if __name__ == "__main__":
    main()
