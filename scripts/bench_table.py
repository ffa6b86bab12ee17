"""Print benchmark records as Markdown tables: CPU seconds of every variant, and every ratio with its rounds.

``python scripts/bench_table.py runs/bench/ddpo/bench.json`` makes a section of docs/speed.md; run the benchmark first
(``mmalign bench ddpo``).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def main() -> None:
    """Read records and print a heading and two tables per case."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("records", type=Path, nargs="+", help="bench.json files")
    for file in parser.parse_args().records:
        if not file.is_file():
            parser.error(f"{file}: no such file; `mmalign bench NAME` writes a bench.json")
        record = json.loads(file.read_text(encoding="utf-8"))
        loads = sorted(record["load_per_core"].values())
        for name, case in record["cases"].items():
            command = f"mmalign bench {record['bench']} --cases {name} --rounds {case['rounds']}"
            gap = f"{case['largest_gap']:.0e}" if case["largest_gap"] else "none"
            print(
                f"### `{record['bench']}`, case `{name}`\n\n`{command}`: {case['text']}. Largest relative difference "
                f"between variants: {gap}. GEMM peak {record['gemm_gflops']:.0f} GFLOP/s, load per core "
                f"{loads[0]:.1f} to {loads[-1]:.1f}.\n"
            )
            print("\n".join([*_variants(case["variants"]), "", *_ratios(case["comparisons"]), ""]))


def _variants(variants: Mapping[str, Any]) -> list[str]:
    lines = ["| variant | CPU s [min, max] | GFLOP | of GEMM peak | peak MB |", "|---|---|---|---|---|"]
    for name, found in variants.items():
        seconds = found["cpu_s"]
        shown = f"{seconds['median']:.3f} [{seconds['low']:.3f}, {seconds['high']:.3f}]"
        peak = "" if found["peak_bytes"] is None else f"{found['peak_bytes'] / 2**20:.0f}"
        lines.append(f"| `{name}` | {shown} | {found['gflop']:.1f} | {found['gemm_share']:.0%} | {peak} |")
    return lines


def _ratios(comparisons: Mapping[str, Any]) -> list[str]:
    lines = ["| ratio | measured [min, max] | bar |", "|---|---|---|"]
    for name, found in comparisons.items():
        bar = "" if found["bar"] is None else f"{found['bar']:g}, {'met' if found['met'] else 'missed'}"
        lines.append(f"| `{name}` | {found['ratio']:.2f} [{found['low']:.2f}, {found['high']:.2f}] | {bar} |")
    return lines


if __name__ == "__main__":
    main()
