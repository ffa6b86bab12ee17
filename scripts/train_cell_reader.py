"""Train the cell-reading network of the drawings world, its second detector.

``python scripts/train_cell_reader.py --seed 0 --out mmalign/worlds/drawings/reader`` makes the shipped one on one
thread in about a minute; ``README.json`` beside the weights holds command, figures and processor time.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from mmalign.rng import numpy_generator
from mmalign.worlds.drawings.cells import UNREADABLE, CellReader, corrupted, labelled_cells
from mmalign.worlds.scenes.ship import file_sha256


def tensors(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cells ``[4 n, 3, 16, 16]`` in 0..1 and labels."""
    cells, labels = labelled_cells(n, seed)
    return torch.from_numpy(cells).permute(0, 3, 1, 2).float() / 255, torch.from_numpy(labels)


@torch.no_grad()
def measure(reader: CellReader, seed: int) -> dict[str, float]:
    """Accuracy on fresh clean cells and on corrupted ones, and recall of the ruined cells."""
    cells, labels = tensors(1000, seed + 1000)
    spoilt, truth = corrupted(cells, labels, numpy_generator(seed, "measure"))
    clean, read = reader(cells).argmax(1), reader(spoilt).argmax(1)
    ruined = truth == UNREADABLE
    return {
        "clean": float((clean == labels).float().mean()),
        "corrupted": float((read == truth)[~ruined].float().mean()),
        "ruined_recall": float((read == truth)[ruined].float().mean()),
    }


def main() -> None:
    """Train, measure on fresh cells, and write weights and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=6000)
    parser.add_argument("--steps", type=int, default=1500)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    start = time.process_time()
    cells, labels = tensors(args.pictures, args.seed)
    reader = CellReader()
    optimizer = torch.optim.AdamW(reader.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=args.steps)
    losses: list[float] = []
    for step in range(args.steps):
        rng = numpy_generator(args.seed, "reader", step)
        chosen = torch.from_numpy(rng.integers(len(cells), size=256))
        x, y = corrupted(cells[chosen], labels[chosen], rng)
        loss = F.cross_entropy(reader(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    args.out.mkdir(parents=True, exist_ok=True)
    save_file(reader.state_dict(), args.out / "model.safetensors")
    record = {
        "weights_sha256": file_sha256(args.out / "model.safetensors"),
        "parameters": sum(p.numel() for p in reader.parameters()),
        "command": f"python scripts/train_cell_reader.py --seed {args.seed} --out {args.out}",
        "steps": args.steps,
        "loss": round(float(np.mean(losses[-50:])), 4),
        "fresh": measure(reader.eval(), args.seed),
        "cpu_seconds": round(time.process_time() - start),
    }
    (args.out / "README.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
