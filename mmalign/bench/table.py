"""The printed tables of a benchmark's case."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from mmalign.bench.definition import Case

__all__ = ["print_case"]


def print_case(case: Case, found: Mapping[str, Any], out: Console) -> None:
    """Two tables: every variant with its cost, and every comparison with its ratio and bar."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("variant", no_wrap=True)
    for title in ("CPU s [min, max]", "collate", "wall", "GFLOP", "of GEMM peak", "peak MB", "largest gap"):
        table.add_column(title, justify="right", no_wrap=True)
    for name, entry in found["variants"].items():
        cpu, gaps = entry["cpu_s"], entry["gaps"]
        table.add_row(
            name,
            f"{cpu['median']:.3f} [{cpu['low']:.3f}, {cpu['high']:.3f}]",
            f"{entry['collate_cpu_s']['median']:.3f}",
            f"{entry['wall_s']['median']:.2f}",
            f"{entry['gflop']:.1f}",
            f"{entry['gemm_share']:.0%}",
            "" if entry["peak_bytes"] is None else f"{entry['peak_bytes'] / 2**20:.0f}",
            f"{max(gaps.values()):.1g}" if gaps else "(first)",
        )
    out.print(table)
    ratios = Table(box=None, pad_edge=False, header_style="bold")
    ratios.add_column("comparison", no_wrap=True)
    for title in ("ratio [min, max]", "bar", ""):
        ratios.add_column(title, justify="right", no_wrap=True)
    for name, entry in found["comparisons"].items():
        bar = entry["bar"]
        ratios.add_row(
            name,
            f"{entry['ratio']:.2f} [{entry['low']:.2f}, {entry['high']:.2f}]",
            "" if bar is None else f"{bar:g}",
            "" if bar is None else "met" if entry["met"] else "NOT met",
        )
    out.print(ratios)
    for name, text in case.variants.items():
        out.print(f"  {name}: {text}", highlight=False)
