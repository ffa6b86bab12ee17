"""Peak memory of one variant, in a process of its own: what it needs above the level before its first step."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from mmalign.errors import UserError

__all__ = ["main", "peak_of", "resident"]

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_STEPS = 3


def resident(key: str = "VmRSS") -> int:
    """Resident bytes of this process: now (``VmRSS``) or the highest so far (``VmHWM``).

    Raises:
        UserError: on a system without ``/proc``.
    """
    if not _STATUS.is_file():
        raise UserError("peak memory is read from /proc, which only Linux has")
    line = next(text for text in _STATUS.read_text().splitlines() if text.startswith(key + ":"))
    return int(line.split()[1]) * 1024


def peak_of(bench: str, case: str, variant: str, *, quick: bool) -> int:
    """Bytes above the level before the first step, over a few steps, measured in a fresh process.

    Raises:
        UserError: when that process fails; its last line says why.
    """
    command = [
        sys.executable,
        "-m",
        "mmalign.bench.memory",
        bench,
        case,
        variant,
        *(["quick"] if quick else []),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        why = (done.stderr.strip() or "no output").splitlines()[-1]
        raise UserError(f"bench {bench}, case {case}: measuring the memory of {variant} failed ({why})")
    return int(json.loads(done.stdout.splitlines()[-1])["bytes"])


def main(argv: list[str]) -> int:
    """``python -m mmalign.bench.memory BENCH CASE VARIANT [quick]``: print ``{"bytes": ...}``."""
    from mmalign.bench.definition import find_bench
    from mmalign.bench.timing import pin_threads

    pin_threads()
    bench, case, variant, *quick = argv
    step = find_bench(bench).case(case, bool(quick)).build([variant])[variant]
    _CLEAR.write_text("5")
    before = resident()
    for _ in range(_STEPS):
        step.run(step.prepare())
    print(json.dumps({"bytes": max(0, resident("VmHWM") - before), "before": before}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
