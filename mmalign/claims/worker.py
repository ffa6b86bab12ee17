"""One cell (start and seed) of a claim, arm after arm, in a process of its own.

``python -m mmalign.claims.worker --claim fgaif --start base --seed 0 --seeds 5 --output_dir DIR``; it
is started by :mod:`mmalign.claims.schedule`, but the same command by hand repeats a single cell.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
import threading
import time
from pathlib import Path

from mmalign.claims.definition import Arm, Claim
from mmalign.claims.plan import arm_config, find_claim, link_reused, narrowed
from mmalign.claims.results import Cell, cell_folder
from mmalign.data.jsonl import write_json
from mmalign.errors import UserError

__all__ = ["arm_marker", "main", "run_cell"]


def arm_marker(root: Path, cell: Cell, arm: str) -> Path:
    """The file that says an arm has finished in a cell."""
    return cell_folder(root, cell) / arm / "arm.json"


def run_cell(claim: Claim, cell: Cell, root: Path, *, seed_index: int, quick: bool) -> None:
    """Run every arm of a cell; finished arms are skipped and a killed one resumes where it was.

    Raises:
        UserError: when an arm's run cannot go on.
    """
    folder = cell_folder(root, cell)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for arm in claim.arms_for(seed_index, quick):
            if not arm_marker(root, cell, arm.name).is_file():
                write_json(folder / "now.json", {"arm": arm.name})
                _run_arm(claim, arm, cell, root, quick=quick)


def _run_arm(claim: Claim, arm: Arm, cell: Cell, root: Path, *, quick: bool) -> None:
    from mmalign.pipeline.run import open_run, run_recipe

    began, cpu = time.perf_counter(), time.process_time()
    config = arm_config(claim, arm, cell, root, quick=quick)
    link_reused(claim, arm, cell_folder(root, cell))
    print(f"{cell.start} seed {cell.seed}: {arm.name}", flush=True)
    run_recipe(config)
    if arm.job is not None:
        arm.job(open_run(config))
    spent = {
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
    }
    write_json(arm_marker(root, cell, arm.name), {"arm": arm.name, **spent})


def main(argv: list[str] | None = None) -> int:
    """Run one cell; exit status 2 with one sentence on a user's error."""
    parser = argparse.ArgumentParser(prog="python -m mmalign.claims.worker", description=__doc__)
    parser.add_argument("--claim", required=True)
    parser.add_argument("--start", required=True)
    parser.add_argument("--arms", default="", help="run these arms only, separated by commas")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--seed_index", type=int, default=None, help="place of the seed among the seeds")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--parent", type=int, default=None, help="end when this process is gone")
    options = parser.parse_args(argv)
    if options.parent is not None:
        threading.Thread(target=_end_with, args=(options.parent,), daemon=True).start()
    index = options.seed if options.seed_index is None else options.seed_index
    try:
        run_cell(
            narrowed(find_claim(options.claim), [name for name in options.arms.split(",") if name]),
            Cell(options.start, options.seed),
            options.output_dir,
            seed_index=index,
            quick=options.quick,
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    return 0


def _end_with(parent: int) -> None:
    """Leave at once when the process that started this one has died (the run resumes later)."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(3)


if __name__ == "__main__":
    sys.exit(main())
