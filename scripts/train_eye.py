"""Train the eye of the sweep world: an encoder of frames from which rewards of few labels start.

``python scripts/train_eye.py --seed 0 --out mmalign/worlds/sweep/eye`` makes the shipped one on one thread in two
minutes, from recorded episodes without labels or rewards; ``README.json`` beside the weights holds command and figures.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from mmalign.rewards.rapl.pretrain import pretrain
from mmalign.rewards.rapl.videos import video
from mmalign.worlds.scenes.ship import file_sha256
from mmalign.worlds.sweep.single import ZONE

FRAMES = 24
"""Frames of each episode."""


def frames_of(split: str, n: int) -> torch.Tensor:
    """``[24 n, 3, 32, 32]`` frames of ``n`` recorded episodes."""
    return torch.cat([video(row.completion, FRAMES) for row in ZONE.rows(split, n, 0, "caption")])


def main() -> None:
    """Train, measure on validation episodes, and write weights and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--episodes", type=int, default=512)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    start = time.process_time()
    encoder, explained = pretrain(
        frames_of("train", args.episodes),
        frames_of("validation", 32),
        steps=args.steps,
        batch=args.batch,
        learning_rate=args.lr,
        seed=args.seed,
    )
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "model.safetensors"
    save_file({name: value.contiguous() for name, value in encoder.state_dict().items()}, file)
    record = {
        "weights_sha256": file_sha256(file),
        "parameters": sum(p.numel() for p in encoder.parameters()),
        "command": f"python scripts/train_eye.py --seed {args.seed} --out {args.out}",
        "episodes": args.episodes,
        "steps": args.steps,
        "batch": args.batch,
        "lr": args.lr,
        "heldout_variance_explained": round(explained, 4),
        "cpu_seconds": round(time.process_time() - start),
    }
    (args.out / "README.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
