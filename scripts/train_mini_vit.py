"""Pretrain the tiny ViTs that transfer suites are measured on.

``python scripts/train_mini_vit.py --out mmalign/worlds/patterns/mini-vit`` makes the smaller of the two shipped
ones on one thread in about five minutes of processor time; with ``--width 96 --depth 6 --lr 0.001`` and the folder
``small-vit`` it makes the larger, in about twelve.  It names the glyph, the background's texture and both hues of
generated pictures (``mmalign.worlds.patterns.glyphs``); no task of ``mini-vtab`` uses these pictures or these labels'
combinations.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmalign.rng import derive_seed, generator, numpy_generator
from mmalign.worlds.patterns.backbone import ARCHITECTURE, model_args, ship
from mmalign.worlds.patterns.glyphs import ATTRIBUTES, glyph_pictures


def pictures(n: int, seed: int, name: str) -> tuple[Tensor, dict[str, Tensor]]:
    """``n`` pictures as bytes and their labels."""
    images, labels = glyph_pictures(n, numpy_generator(seed, "mini-vit", name))
    return torch.from_numpy(images), {key: torch.from_numpy(value) for key, value in labels.items()}


@torch.no_grad()
def accuracy(
    vit: nn.Module, heads: nn.ModuleDict, images: Tensor, labels: dict[str, Tensor]
) -> dict[str, float]:
    """Share of right labels per attribute."""
    vit.eval()
    features = torch.cat([vit(part.float() / 127.5 - 1) for part in images.split(500)])
    found = {
        key: round(float((head(features).argmax(1) == labels[key]).float().mean()), 4)
        for key, head in heads.items()
    }
    vit.train()
    return found


def main() -> None:
    """Train, print held-out accuracies, and write the weights without the heads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--width", type=int, default=48)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--pictures", type=int, default=60_000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    torch.manual_seed(derive_seed(args.seed, "mini-vit"))
    shape = model_args(args.width, args.depth)
    vit = timm.create_model(ARCHITECTURE, num_classes=0, **shape)
    heads = nn.ModuleDict({name: nn.Linear(args.width, n) for name, n in ATTRIBUTES.items()})
    images, labels = pictures(args.pictures, args.seed, "train")
    held, held_labels = pictures(2000, args.seed, "held-out")
    parameters = [*vit.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, weight_decay=0.05, betas=(0.9, 0.98), fused=True)
    per_epoch = args.pictures // args.batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.lr, total_steps=args.epochs * per_epoch, pct_start=0.05
    )
    figures: dict[str, float] = {}
    for epoch in range(args.epochs):
        order = torch.randperm(args.pictures, generator=generator(args.seed, "mini-vit", "order", epoch))
        for rows in order.split(args.batch)[:per_epoch]:
            features = vit(images[rows].float() / 127.5 - 1)
            losses = [F.cross_entropy(head(features), labels[key][rows]) for key, head in heads.items()]
            torch.stack(losses).sum().backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        figures = accuracy(vit, heads, held, held_labels)
        print(epoch + 1, round(time.process_time() - began), figures, flush=True)
    record = {
        "command": f"python scripts/train_mini_vit.py --width {args.width} --depth {args.depth} --lr {args.lr} "
        f"--seed {args.seed} --out {args.out}",
        "pictures": args.pictures,
        "epochs": args.epochs,
        "batch": args.batch,
        "lr": args.lr,
        "held_out_accuracy": figures,
        "cpu_seconds": round(time.process_time() - began),
    }
    print(ship(vit.state_dict(), args.out, record, shape), record)


if __name__ == "__main__":
    main()
