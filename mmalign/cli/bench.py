"""``mmalign bench list`` and ``mmalign bench NAME``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from mmalign.cli.arguments import CommandParser

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """List the benchmarks, or run one; its last printed line is one JSON object."""
    parser = CommandParser(
        "bench",
        "Time mmalign against another library on the same batch, after checking that the numbers agree.",
    )
    parser.add_argument("name", help="a benchmark, or list")
    parser.add_argument("--names", action="store_true", help="with list: the names alone")
    parser.add_argument("--quick", action="store_true", help="a small case, about a minute of CPU")
    parser.add_argument("--cases", type=_names, default=(), help="only these cases, separated by commas")
    parser.add_argument("--rounds", type=int, help="how often every variant is timed")
    parser.add_argument("--output_dir", "--output-dir", type=Path, help="default: runs/bench/NAME[-quick]")
    options = parser.parse_args(list(argv))
    if options.name == "list" and options.names:
        from mmalign import registry

        print("\n".join(registry.names("benches")))
        return 0
    for library in ("OMP", "MKL", "OPENBLAS"):
        os.environ[f"{library}_NUM_THREADS"] = "1"
    from mmalign.bench.run import list_benches, run_bench

    if options.name == "list":
        print(list_benches())
        return 0
    run_bench(
        options.name,
        quick=options.quick,
        output_dir=options.output_dir,
        cases=options.cases,
        rounds=options.rounds,
    )
    return 0


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
