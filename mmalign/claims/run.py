"""Running a claim from end to end, and listing the claims there are."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from mmalign.claims.plan import check_equal, find_claim, narrowed
from mmalign.claims.record import claim_record, last_verdict, must_hold, print_record, write_record
from mmalign.claims.results import Cell, Results
from mmalign.claims.schedule import Schedule, run_cells
from mmalign.claims.worker import run_cell
from mmalign.console import table_console
from mmalign.errors import UserError

__all__ = ["default_folder", "list_claims", "run_claim"]

QUICK_SEEDS = 2


def default_folder(name: str, quick: bool) -> Path:
    """Where a claim's runs go by default; quick runs have a folder of their own."""
    return Path("runs") / "claims" / (f"{name}-quick" if quick else name)


def run_claim(
    name: str,
    *,
    seeds: int | None = None,
    quick: bool = False,
    output_dir: Path | None = None,
    workers: int | None = None,
    arms: Sequence[str] = (),
    starts: Sequence[str] = (),
    console: Console | None = None,
) -> int:
    """Run every (start, seed, arm) of a claim, write ``claim.json`` and print the verdicts.

    The same command goes on after a kill: finished arms are skipped, a running one resumes.

    Args:
        name: a registered claim, or ``module:ATTRIBUTE``.
        seeds: how many seeds 0, 1, ... of every start; the claim's own number by default, 2 with ``quick``.
        quick: the claim's quick overrides (a smoke test: too small to decide much).
        output_dir: ``runs/claims/<name>`` by default, ``runs/claims/<name>-quick`` with ``quick``.
        workers: processes at a time, one thread each; the number of cores by default.  0 runs the cells
            one after another in this process (for a debugger).
        arms: only these arms and those they reuse; statements about others are inconclusive.
        starts: only these starts.
        console: where to print.

    Returns:
        0 when every must-hold statement holds, else 1.

    Raises:
        UserError: for an unknown claim, arms that are not held equal, or a cell that failed.
    """
    _check_counts(seeds, workers)
    claim, out = narrowed(find_claim(name), arms, starts), console or table_console()
    seeds = (QUICK_SEEDS if quick else claim.seeds) if seeds is None else seeds
    root = output_dir or default_folder(claim.name, quick)
    equal = check_equal(claim, quick=quick)
    cells = tuple((Cell(start, seed), seed) for seed in range(seeds) for start in claim.starts)
    count = len(os.sched_getaffinity(0)) if workers is None else workers
    schedule = Schedule(name, claim, cells, root, quick)
    out.print(
        f"{escape(claim.title)}: {len(schedule.weights())} arms in {len(cells)} cells "
        f"({len(claim.starts)} starts, {seeds} seeds), {min(count, len(cells))} workers, in "
        f"{escape(str(root))}"
    )
    if count:
        run_cells(schedule, count)
    else:
        for cell, index in cells:
            run_cell(claim, cell, root, seed_index=index, quick=quick)
    command = _command(name, seeds, quick, arms, starts)
    record = claim_record(
        Results(claim, root, range(seeds), quick), quick=quick, command=command, equal=equal
    )
    file = write_record(record, root)
    print_record(record, claim, out)
    good = must_hold(record)
    out.print(f"{'every' if good else 'not every'} must-hold statement holds; written to {escape(str(file))}")
    return 0 if good else 1


def _check_counts(seeds: int | None, workers: int | None) -> None:
    if seeds is not None and seeds < 1:
        raise UserError(f"seeds: expected at least 1, got {seeds}")
    if workers is not None and workers < 0:
        raise UserError(f"workers: expected at least 0, got {workers}")


def list_claims(runs: Path = Path("runs")) -> str:
    """Every registered claim with its last verdict, as text; a broken definition is listed as failed."""
    from mmalign import registry

    lines: list[str] = []
    for name in sorted(registry.names("claims")):
        try:
            claim = find_claim(name)
        except Exception as error:  # a broken plug-in stops nobody
            lines.append(f"{name}: failed to load ({type(error).__name__}: {error})")
            continue
        lines.append(f"{name}: {claim.title} ({claim.source})")
        found = last_verdict(claim, runs)
        if found is None:
            lines.append(f"    never run; mmalign claims run {name}")
            continue
        record, place = found
        starts = " and ".join(record["starts"]) if record.get("starts") else "every start"
        size = f"{len(record['seeds'])} seeds from {starts}{', quick' if record['quick'] else ''}"
        lines.append(f"    {'holds' if must_hold(record) else 'does not hold'} ({size}; {place})")
        for s in record["statements"]:
            must = "" if s["must_hold"] else " (report only)"
            lines.append(f"    {s['id']:<4} {s['verdict']:<13}{s['text']}{must}")
    return "\n".join(lines) or "no claims are registered"


def _command(name: str, seeds: int, quick: bool, arms: Sequence[str], starts: Sequence[str]) -> str:
    some = [("--arms", arms), ("--starts", starts)]
    chosen = [word for flag, names in some if names for word in (flag, ",".join(names))]
    quickly = ["--quick"] if quick else []
    return shlex.join(["mmalign", "claims", "run", name, "--seeds", str(seeds), *quickly, *chosen])
