"""Running a benchmark from end to end: check equality, time in turn, measure memory, write and print."""

from __future__ import annotations

import gc
import importlib.util
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from mmalign.bench.agreement import check_agreement
from mmalign.bench.definition import Bench, Case, Comparison, find_bench
from mmalign.bench.flops import count_flops, gemm_peak
from mmalign.bench.memory import peak_of
from mmalign.bench.plot import save_plot
from mmalign.bench.table import print_case
from mmalign.bench.timing import Sample, interleave, load_now, pin_threads, ratio_of, spread_of, take
from mmalign.console import table_console
from mmalign.data.jsonl import write_json
from mmalign.errors import UserError

__all__ = ["SCHEMA", "list_benches", "run_bench"]

SCHEMA = "mmalign.bench/1"


def list_benches() -> str:
    """Every registered benchmark with its cases, as text."""
    from mmalign import registry

    lines = []
    for name in registry.names("benches"):
        bench = find_bench(name)
        lines.append(f"{name}: {bench.title}")
        for quick in (False, True):
            mark = " (--quick)" if quick else ""
            lines += [f"    {case.name}{mark}: {case.text}" for case in bench.chosen(quick)]
    return "\n".join(lines) or "no benchmarks are registered"


def run_bench(
    name: str,
    *,
    quick: bool = False,
    output_dir: Path | None = None,
    cases: Sequence[str] = (),
    rounds: int | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Run a benchmark; write ``bench.json`` and ``bench.svg``; the last printed line is one JSON object.

    Args:
        name: a registered benchmark.
        quick: its small cases only.
        output_dir: ``runs/bench/NAME`` by default, ``runs/bench/NAME-quick`` with ``quick``.
        cases: only these cases; then the headline is the first comparison of the first of them.
        rounds: how often every variant is timed, instead of what the cases say.
        console: where to print.

    Returns:
        what ``bench.json`` holds.

    Raises:
        UserError: for an unknown name, a missing package, or variants that do not agree.
    """
    pin_threads()
    out = console or table_console()
    bench = find_bench(name)
    _check_needs(bench)
    chosen = _chosen(bench, quick, cases, rounds)
    folder = output_dir or Path("runs") / "bench" / (f"{name}-quick" if quick else name)
    before = load_now()
    out.print(f"{bench.title}; 1 thread, CPU time, variants in turn", highlight=False)
    if before > 1:
        out.print(f"the machine is busy ({before:.2f} waiting per core): wall times below mean little")
    peak = gemm_peak()
    measured = {}
    for case in chosen:
        measured[case.name] = _run_case(bench, case, quick, peak, out.print)
        print_case(case, measured[case.name], out)
    record = {
        **_heading(bench, quick),
        "command": _command(name, quick, cases, rounds),
        "load_per_core": {"before": before, "after": load_now()},
        "gemm_gflops": peak / 1e9,
        "cases": measured,
        "not_faster": not_faster(measured),
    }
    write_json(folder / "bench.json", record)
    save_plot(record, folder / "bench.svg")
    for note in bench.notes:
        out.print(f"- {note}", highlight=False)
    _print_not_faster(record["not_faster"], out)
    out.print(f"written to {folder / 'bench.json'}", highlight=False)
    wanted = bench.quick_headline if quick else bench.headline
    if wanted[0] not in measured:
        wanted = (chosen[0].name, chosen[0].comparisons[0].name)
    print(json.dumps(headline(record, *wanted)), flush=True)
    return record


def _heading(bench: Bench, quick: bool) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "bench": bench.name,
        "title": bench.title,
        "quick": quick,
        "threads": 1,
        "versions": _versions(),
        "notes": list(bench.notes),
    }


def headline(record: Mapping[str, Any], case: str, comparison: str) -> dict[str, Any]:
    """The benchmark in one flat object: the headline ratio, its spread, and to what tolerance the numbers agreed."""
    found = record["cases"][case]
    ratio = found["comparisons"][comparison]
    others = {
        f"{name}: {key}": round(value["ratio"], 3)
        for name, entry in record["cases"].items()
        for key, value in entry["comparisons"].items()
        if (name, key) != (case, comparison)
    }
    return {
        "bench": record["bench"],
        "quick": record["quick"],
        "compared": f"{case}: {comparison}",
        "unit": ratio["unit"],
        "ratio": round(ratio["ratio"], 3),
        "spread": [round(ratio["low"], 3), round(ratio["high"], 3)],
        "bar": ratio["bar"],
        "equal_to": found["largest_gap"],
        "tolerance": found["tolerance"],
        "gemm_share": round(found["variants"][comparison.split(" / ")[1].split(" ")[0]]["gemm_share"], 3),
        "load_per_core": round(record["load_per_core"]["after"], 2),
        "other_ratios": others,
        "not_faster": record["not_faster"],
    }


def not_faster(cases: Mapping[str, Any]) -> list[str]:
    """Comparisons whose worst round is at or below 1, or whose median is below 1.05."""
    return [
        f"{name}: {key} {entry['ratio']:.2f} [{entry['low']:.2f}, {entry['high']:.2f}]"
        for name, case in cases.items()
        for key, entry in case["comparisons"].items()
        if entry["low"] <= 1.0 or entry["ratio"] < 1.05
    ]


def _run_case(bench: Bench, case: Case, quick: bool, peak: float, say: Callable[..., None]) -> dict[str, Any]:
    say(f"\n{case.name}: {case.text}", highlight=False)
    steps = case.build(list(case.variants))
    first: dict[str, Sample] = {}
    outcomes: dict[str, Any] = {}
    for name, step in steps.items():
        first[name] = take(step)
        outcomes[name] = {key: value.detach().clone() for key, value in step.outcome().items()}
    where = f"bench {bench.name}, case {case.name}"
    gaps = check_agreement(outcomes, case.tolerance, where)
    del outcomes
    flops = {name: count_flops(step) for name, step in steps.items()}
    began = time.perf_counter()
    samples = interleave(steps, case.rounds)
    say(
        f"timed {len(steps)} variants x {case.rounds} in {time.perf_counter() - began:.0f} s", highlight=False
    )
    once = {name: step.once_s for name, step in steps.items()}
    del steps
    gc.collect()
    bytes_ = {name: peak_of(bench.name, case.name, name, quick=quick) for name in case.measured}
    variants = {
        name: {
            "text": case.variants[name],
            "cpu_s": asdict(spread_of([s.run_cpu for s in taken])),
            "collate_cpu_s": asdict(spread_of([s.prepare_cpu for s in taken])),
            "wall_s": asdict(spread_of([s.wall for s in taken])),
            "first_run_cpu_s": first[name].run_cpu,
            "once_cpu_s": once[name],
            "gflop": flops[name] / 1e9,
            "gemm_share": flops[name] / spread_of([s.run_cpu for s in taken]).median / peak,
            "peak_bytes": bytes_.get(name),
            "gaps": gaps.get(name, {}),
        }
        for name, taken in samples.items()
    }
    return {
        "text": case.text,
        "rounds": case.rounds,
        "tolerance": case.tolerance,
        "largest_gap": max(gap for found in gaps.values() for gap in found.values()),
        "variants": variants,
        "comparisons": {c.name: _compare(c, samples, bytes_) for c in case.comparisons},
    }


def _compare(
    comparison: Comparison, samples: Mapping[str, list[Sample]], bytes_: Mapping[str, int]
) -> dict[str, Any]:
    if comparison.memory:
        value = bytes_[comparison.base] / max(1, bytes_[comparison.candidate])
        found: dict[str, Any] = {"ratio": value, "low": value, "high": value, "unit": "peak memory"}
    else:
        sides = [[s.run_cpu for s in samples[side]] for side in (comparison.base, comparison.candidate)]
        ratio = ratio_of(*sides)
        found = {"ratio": ratio.value, "low": ratio.low, "high": ratio.high, "unit": "CPU seconds"}
        found["with_collation"] = ratio_of(
            [s.prepare_cpu + s.run_cpu for s in samples[comparison.base]],
            [s.prepare_cpu + s.run_cpu for s in samples[comparison.candidate]],
        ).value
    met = None if comparison.bar is None else bool(found["ratio"] >= comparison.bar)
    return {**found, "bar": comparison.bar, "met": met}


def _chosen(bench: Bench, quick: bool, cases: Sequence[str], rounds: int | None) -> list[Case]:
    found = [bench.case(name, quick) for name in cases] or list(bench.chosen(quick))
    if rounds is not None and rounds < 2:
        raise UserError(f"rounds: expected at least 2, got {rounds}")
    return found if rounds is None else [replace(case, rounds=rounds) for case in found]


def _command(name: str, quick: bool, cases: Sequence[str], rounds: int | None) -> str:
    words = ["mmalign", "bench", name, *(["--quick"] if quick else [])]
    words += ["--cases", ",".join(cases)] if cases else []
    return " ".join([*words, *(["--rounds", str(rounds)] if rounds else [])])


def _check_needs(bench: Bench) -> None:
    for package, install in bench.needs.items():
        if importlib.util.find_spec(package) is None:
            raise UserError(f"bench {bench.name} compares with {package}, which is not installed: {install}")


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in ("mmalign", "torch", "transformers", "peft", "trl"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _print_not_faster(found: list[str], out: Console) -> None:
    if not found:
        out.print("every comparison was faster in every round")
        return
    out.print("not clearly faster (worst round at or below 1, or less than 5 % in the median):")
    for line in found:
        out.print(f"  {line}", highlight=False)
