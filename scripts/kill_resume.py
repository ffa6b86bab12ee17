"""Kill a run at random moments, start it again, and compare with a run that was never killed.

    python scripts/kill_resume.py --cycles 50 -- mmalign run fgaif-quick --output_dir

The command's last word must be ``--output_dir``; the script adds the folder.  It prints one line a
cycle and ends with the number of identical files; exit status 1 when a file differs.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMPARED = (
    "metrics.jsonl",
    "evals/**/results.json",
    "evals/**/samples.jsonl",
    "feedback/*.jsonl",
    "stages/*/final/*",
)


def main() -> int:
    """Run the cycles and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cycles", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    command = [word for word in options.command if word != "--"]
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        began = time.perf_counter()
        subprocess.run([*command, str(whole)], check=True, capture_output=True)
        length = time.perf_counter() - began
        print(f"uninterrupted run: {length:.1f} s")
        kills, round_number, rng = 0, 0, random.Random(options.seed)
        while kills < options.cycles:
            round_number += 1
            shutil.rmtree(killed, ignore_errors=True)
            kills += _killed_run(command, killed, length, options.cycles - kills, rng)
            differing = _differences(whole, killed)
            print(
                f"round {round_number}: {kills}/{options.cycles} kills, differing files: {differing or 'none'}",
                flush=True,
            )
            if differing:
                return 1
    print(f"{kills} kills, every compared file identical")
    return 0


def _killed_run(command: list[str], folder: Path, length: float, most: int, rng: random.Random) -> int:
    """Start the command again and again, killing it at a random moment, until it ends by itself."""
    kills = 0
    while True:
        process = subprocess.Popen([*command, str(folder)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        wait = rng.uniform(0.1, 0.9) * length if kills < most else None
        try:
            _, errors = process.communicate(timeout=wait)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += 1
            continue
        if process.returncode:
            sys.exit(f"the resumed run failed: {errors.decode()[-2000:]}")
        return kills


def _differences(whole: Path, killed: Path) -> list[str]:
    names = sorted(
        {str(p.relative_to(whole)) for pattern in COMPARED for p in whole.glob(pattern) if p.is_file()}
    )
    return [
        n
        for n in names
        if not (killed / n).is_file() or (whole / n).read_bytes() != (killed / n).read_bytes()
    ]


if __name__ == "__main__":
    sys.exit(main())
