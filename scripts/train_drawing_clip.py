"""Train the open_clip model that scores drawings against prompts.

``python scripts/train_drawing_clip.py --seed 0 --out mmalign/worlds/drawings/clip`` makes the shipped one on one thread
in a few minutes.  ``open_clip.create_model_and_transforms("local-dir:mmalign/worlds/drawings/clip")`` loads it;
``README.json`` beside the weights holds command, figures and processor time.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from mmalign.rng import derive_seed
from mmalign.worlds.drawings.dual import (
    CONFIG,
    MEAN,
    STD,
    contrastive_loss,
    encoded,
    examples,
    make_dual,
    place_loss,
    two_way,
)
from mmalign.worlds.drawings.model import CONTEXT, make_tokenizer
from mmalign.worlds.drawings.prompts import THINGS
from mmalign.worlds.drawings.scene import GRID
from mmalign.worlds.scenes.ship import file_sha256


def tokenizer(texts: list[str]) -> torch.Tensor:
    """Token ids ``[N, L]``."""
    return make_tokenizer()(texts, padding="max_length", return_tensors="pt", max_length=CONTEXT)["input_ids"]


def write(model: torch.nn.Module, out: Path) -> str:
    """Write config, tokenizer and float16 weights as open_clip's local folders have them; returns the weights' hash."""
    out.mkdir(parents=True, exist_ok=True)
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "squash"}
    text = json.dumps({"model_cfg": CONFIG, "preprocess_cfg": preprocess}, indent=1)
    (out / "open_clip_config.json").write_text(text + "\n")
    make_tokenizer().save_pretrained(out)
    weights = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, out / "open_clip_model.safetensors")
    return file_sha256(out / "open_clip_model.safetensors")


def main() -> None:
    """Train, measure two-way choices on validation pairs, and write weights and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--places", type=float, default=1.0, help="weight of the loss of the places")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    start = time.process_time()
    model = make_dual(args.seed)
    head = nn.Linear(CONFIG["embed_dim"], GRID**2 * (len(THINGS) + 1))
    parameters = [*model.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=args.steps, pct_start=0.1)
    losses: list[float] = []
    for step in range(args.steps):
        batch = examples(args.batch, derive_seed(args.seed, "dual", step))
        images, texts = encoded(model, tokenizer(list(batch.texts)), batch.pixels)
        loss = contrastive_loss(images, texts, model.logit_scale.exp(), batch)
        loss = loss + args.places * place_loss(head, images, texts, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % 100 == 99:
            seconds = round(time.process_time() - start)
            figures = two_way(model, tokenizer, 100, 0, "validation")
            print(
                json.dumps({"step": step + 1, "cpu": seconds, "loss": np.mean(losses[-100:])} | figures),
                flush=True,
            )
    record = {
        "weights_sha256": write(model.eval(), args.out),
        "parameters": sum(p.numel() for p in model.parameters()),
        "command": f"python scripts/train_drawing_clip.py --seed {args.seed} --out {args.out}",
        "steps": args.steps,
        "loss": round(float(np.mean(losses[-100:])), 4),
        "two_way_validation": two_way(model, tokenizer, 500, 1, "validation"),
        "cpu_seconds": round(time.process_time() - start),
    }
    (args.out / "README.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
