"""Interleaved timing in one process: every variant once per round, in an order that turns from round to round."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmalign.bench.definition import Step

__all__ = [
    "Ratio",
    "Sample",
    "Spread",
    "interleave",
    "load_now",
    "pin_threads",
    "ratio_of",
    "spread_of",
    "take",
]

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def pin_threads() -> None:
    """One thread for every library, in this process and those it starts.

    With more, a thread that waits for a busy core spins, and the spinning counts as CPU time.
    """
    for name in _THREADS:
        os.environ[name] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch

    torch.set_num_threads(1)


def load_now() -> float:
    """Load average of the last minute per core; above 1 the machine is busy (0 where the system has none)."""
    if not hasattr(os, "getloadavg"):
        return 0.0
    return os.getloadavg()[0] / (os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one variant, in seconds: CPU (user + system) of ``prepare`` and ``run``, and wall of both."""

    prepare_cpu: float
    run_cpu: float
    wall: float


@dataclass(frozen=True, slots=True)
class Spread:
    """Median with the smallest and largest sample."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times less the candidate needs: median over rounds, with the smallest and largest round."""

    value: float
    low: float
    high: float
    rounds: int


def take(step: Step) -> Sample:
    """Run a variant once."""
    wall, cpu = time.perf_counter(), time.process_time()
    ready = step.prepare()
    middle = time.process_time()
    step.run(ready)
    return Sample(middle - cpu, time.process_time() - middle, time.perf_counter() - wall)


def interleave(steps: Mapping[str, Step], rounds: int) -> dict[str, list[Sample]]:
    """Time every variant ``rounds`` times.  The order turns by one each round, so that none always comes first."""
    names = list(steps)
    samples: dict[str, list[Sample]] = {name: [] for name in names}
    for turn in range(rounds):
        at = turn % len(names)
        for name in names[at:] + names[:at]:
            samples[name].append(take(steps[name]))
    return samples


def spread_of(values: Sequence[float]) -> Spread:
    """Median, minimum and maximum."""
    return Spread(statistics.median(values), min(values), max(values))


def ratio_of(base: Sequence[float], candidate: Sequence[float]) -> Ratio:
    """Ratio of two variants, round by round, so that what slowed a round down slows both sides of it."""
    ratios = [b / c for b, c in zip(base, candidate, strict=True)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios), len(ratios))
