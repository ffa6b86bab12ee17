"""Train the embedded scenes model with every pair and unpaired objective, all else equal, and compare.

    OMP_NUM_THREADS=1 python scripts/compare_objectives.py                    # about 4 minutes of processor time
    python scripts/compare_objectives.py --arms sigmoid,ipo,shuffled --steps 10 --out runs/few

Every arm starts from the same weights and sees the same pairs in the same batches.  Writes ``objectives.json``, a
Markdown table and a figure; a killed run goes on with the same command.  Docs: docs/objectives/preference.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from mmalign.benchmarks.curves.arms import ARMS
from mmalign.benchmarks.curves.compare import compare
from mmalign.benchmarks.curves.training import Plan
from mmalign.cli.errors import friendly
from mmalign.errors import UserError, nearest

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/objectives"))
    parser.add_argument("--arms", default="", help="comma-separated names; all by default")
    parser.add_argument("--steps", type=int, default=Plan.steps)
    parser.add_argument("--batch-size", type=int, default=Plan.batch_size)
    parser.add_argument("--learning-rate", type=float, default=Plan.learning_rate)
    parser.add_argument("--seed", type=int, default=Plan.seed)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with friendly():
        known = {arm.name: arm for arm in ARMS}
        wanted = [name.strip() for name in options.arms.split(",") if name.strip()] or list(known)
        for name in wanted:
            if name not in known:
                raise UserError(f"--arms: no arm {name!r}{nearest(name, known)}; known: {', '.join(known)}")
        plan = Plan(options.steps, options.batch_size, options.learning_rate, seed=options.seed)
        compare(plan, options.out, [known[name] for name in wanted])
        print((options.out / "objectives.md").read_text(encoding="utf-8"))
